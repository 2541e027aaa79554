// What happened lately, newest first, and as it happens.

import { listen, parse } from "./door.js";
import { clock, eventText } from "./words.js";

const KEPT = 100; // lines
const AGAIN = 2000; // ms, before a connection that ended is made anew

export class Events {
  #list;
  #happened;
  #after = "";

  /** `happened` is called at each event. */
  constructor(list, happened) {
    this.#list = list;
    this.#happened = happened;
  }

  async follow() {
    const after = this.#after && `?after=${encodeURIComponent(this.#after)}`;
    const socket = await listen(`v2/events${after}`).catch(() => null);
    if (!socket) return void setTimeout(() => this.follow(), AGAIN);
    socket.onmessage = ({ data }) => this.#hear(parse(data));
    socket.onclose = () => setTimeout(() => this.follow(), AGAIN);
  }

  /** What happened before we came. */
  show(events) {
    for (const event of events) this.#add(event);
  }

  #hear({ type, id, data }) {
    if (type !== "event") return;
    this.#after = id;
    this.#add(data);
    this.#happened();
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
    while (this.#list.children.length > KEPT) this.#list.lastElementChild.remove();
  }
}
