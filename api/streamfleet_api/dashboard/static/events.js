// The list of events, newest first, updated live.

import { openSocket, parse } from "./api.js";
import { clock, eventText } from "./labels.js";

const MAX_LINES = 100;
const RECONNECT_DELAY = 2000; // ms

export class Events {
  #list;
  #onEvent;
  #after = "";

  /** `onEvent` is called for each event. */
  constructor(list, onEvent) {
    this.#list = list;
    this.#onEvent = onEvent;
  }

  async follow() {
    const after = this.#after && `?after=${encodeURIComponent(this.#after)}`;
    const socket = await openSocket(`v2/events${after}`).catch(() => null);
    if (!socket) return void setTimeout(() => this.follow(), RECONNECT_DELAY);
    socket.onmessage = ({ data }) => this.#receive(parse(data));
    socket.onclose = () => setTimeout(() => this.follow(), RECONNECT_DELAY);
  }

  /** Show the events before the page was opened. */
  show(events) {
    for (const event of events) this.#add(event);
  }

  #receive({ type, id, data }) {
    if (type !== "event") return;
    this.#after = id;
    this.#add(data);
    this.#onEvent();
  }

  #add(event) {
    const { who, state, colour, rest } = eventText(event);
    const line = document.createElement("li");
    const at = Object.assign(document.createElement("time"), { textContent: clock(event.at) });
    const text = document.createElement("span");
    const word = Object.assign(document.createElement("span"), { className: `state ${colour}`, textContent: state });
    text.append(`${who} `, word, rest);
    line.append(at, text);
    this.#list.prepend(line);
    while (this.#list.children.length > MAX_LINES) this.#list.lastElementChild.remove();
  }
}
