// The client of the API: requests with the operator's token, and WebSockets.

const TOKEN_KEY = "streamfleet-token"; // in sessionStorage: for this tab only

/** The API requires a token. The message explains why the last one was refused; empty: there was none. */
export class LoginRequired extends Error {}

export function saveToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

// Control and bidirectional characters are invisible or reorder the text around them. Paths and reasons may
// contain them, so they are shown as escapes.
const CONTROL = /[\p{Cc}\p{Bidi_Control}]/gu;
const escaped = (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`;

/** Parse JSON; all strings in the result are safe to display. */
export function parse(text) {
  return JSON.parse(text, (_key, value) => (typeof value === "string" ? value.replace(CONTROL, escaped) : value));
}

/** Send a request and return the JSON of the response, or null if it is empty. `timeout` is in milliseconds. */
export async function request(path, { method = "GET", body, timeout = 8000 } = {}) {
  const headers = { accept: "application/json" };
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (method !== "GET") headers["content-type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(timeout) });
  if (response.status === 401) {
    if (sessionStorage.getItem(TOKEN_KEY) === token) sessionStorage.removeItem(TOKEN_KEY); // more attempts with it would lock this address out
    throw new LoginRequired(token ? "Wrong token." : "");
  }
  if (response.status === 429 && token) {
    throw new LoginRequired(`Too many wrong tokens from this address. Wait ${response.headers.get("retry-after")} s.`);
  }
  if (response.status === 204) return null;
  const content = parse(await response.text());
  if (!response.ok) throw Object.assign(new Error(content.detail ?? response.statusText), { status: response.status });
  return content;
}

/** Open a WebSocket. Browsers cannot set its headers, so a ticket replaces the token. */
export async function openSocket(path) {
  const address = new URL(path, document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  if (sessionStorage.getItem(TOKEN_KEY)) {
    const { ticket } = await request("v2/tickets", { method: "POST" });
    address.searchParams.set("ticket", ticket);
  }
  return new WebSocket(address);
}
