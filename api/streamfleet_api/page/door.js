// The way to the api: the operator's token where one is asked for, errors that say what went wrong.

const KEPT = "streamfleet-token"; // for this tab only

/** The api wants a token that we do not have. */
export class Locked extends Error {}

export function remember(token) {
  sessionStorage.setItem(KEPT, token);
}

/** The JSON of an answer, or null of an empty one. */
export async function ask(path, { method = "GET", body } = {}) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem(KEPT);
  if (token) headers.authorization = `Bearer ${token}`;
  if (method !== "GET") headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(8000) });
  if (answer.status === 401) throw new Locked();
  if (answer.status === 204) return null;
  const content = await answer.json();
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
