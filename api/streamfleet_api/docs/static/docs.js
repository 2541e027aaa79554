// Sends what the page's forms say. All that comes back is shown as text, never as markup.
"use strict";

const LONGEST = 100000; // characters of an answer that are shown

function request(form) {
  const query = new URLSearchParams();
  const headers = {};
  let path = form.dataset.path;
  for (const input of form.querySelectorAll("input")) {
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.value && input.dataset.in === "query") query.set(input.name, input.value);
    else if (input.value) headers[input.name] = input.value;
  }
  const text = form.querySelector("textarea");
  if (text) headers["Content-Type"] = text.dataset.type;
  const token = document.getElementById("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  const search = query.size ? `?${query}` : "";
  return [path + search, { method: form.dataset.method, headers, body: text ? text.value : undefined }];
}

async function send(form) {
  const shown = form.querySelector("pre");
  shown.textContent = "…";
  try {
    const answer = await fetch(...request(form));
    let text = await answer.text();
    if ((answer.headers.get("content-type") || "").includes("json")) {
      text = JSON.stringify(JSON.parse(text), null, 2);
    }
    shown.textContent = `${answer.status} ${answer.statusText}\n\n${text.slice(0, LONGEST)}`;
  } catch (error) {
    shown.textContent = String(error);
  }
}

for (const form of document.querySelectorAll(".try")) {
  form.hidden = false;
  form.querySelector("button").addEventListener("click", () => send(form));
}

function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

addEventListener("hashchange", open);
open();
