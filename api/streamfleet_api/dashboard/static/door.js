// The way to the api: the operator's token where one is asked for, errors that say what went wrong.

const KEPT = "streamfleet-token"; // for this tab only

/** The api wants a token that we do not have; the message is about the one that we had. */
export class Locked extends Error {}

export function remember(token) {
  sessionStorage.setItem(KEPT, token);
}

// What shows nothing, or turns the order of what is shown beside it: a path may have it, and so a reason.
const STEERING = /[\p{Cc}\p{Bidi_Control}]/gu;
const visible = (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`;

/** JSON, of which every text may be shown. */
export function parse(text) {
  return JSON.parse(text, (_key, value) => (typeof value === "string" ? value.replace(STEERING, visible) : value));
}

/** The JSON of an answer, or null of an empty one. */
export async function ask(path, { method = "GET", body, within = 8000 } = {}) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem(KEPT);
  if (token) headers.authorization = `Bearer ${token}`;
  if (method !== "GET") headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(within) });
  if (answer.status === 401) {
    if (sessionStorage.getItem(KEPT) === token) sessionStorage.removeItem(KEPT); // asking on with it would lock us out
    throw new Locked(token ? "Wrong token." : "");
  }
  if (answer.status === 429 && token) {
    throw new Locked(`Too many wrong tokens came from here: wait ${answer.headers.get("retry-after")} s.`);
  }
  if (answer.status === 204) return null;
  const content = parse(await answer.text());
  if (!answer.ok) throw new Error(content.detail ?? answer.statusText);
  return content;
}

/** An open WebSocket; where a token is needed, with a ticket in its place, as a browser can send no header. */
export async function listen(path) {
  const address = new URL(path, document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  if (sessionStorage.getItem(KEPT)) {
    const { ticket } = await ask("v2/tickets", { method: "POST" });
    address.searchParams.set("ticket", ticket);
  }
  return new WebSocket(address);
}
