// A moving picture: JPEGs from a WebSocket onto a canvas, for as long as it can be seen.

import { listen } from "./door.js";

const AGAIN = 2000; // ms, before a connection that ended is made anew
const LATE = 3000; // ms without a picture, after which the last one is of the past

export class Picture {
  #path;
  #frame;
  #canvas;
  #socket = null;
  #visible = false;
  #timer = 0;
  #drawn = 0;
  #observer;

  constructor(pipelineId, frame) {
    this.#path = `v2/pipelines/${encodeURIComponent(pipelineId)}/pictures`;
    this.#frame = frame;
    this.#canvas = frame.querySelector("canvas");
    // What nobody can see is not asked for: the camera then makes no pictures.
    this.#observer = new IntersectionObserver(([entry]) => this.#see(entry.isIntersecting));
    this.#observer.observe(frame);
    document.addEventListener("visibilitychange", this.#tab);
  }

  close() {
    this.#observer.disconnect();
    document.removeEventListener("visibilitychange", this.#tab);
    this.#see(false);
  }

  /** Call it now and then: a picture that stands still must not look alive. */
  tend() {
    this.#frame.classList.toggle("stale", performance.now() - this.#drawn > LATE);
  }

  #tab = () => (document.hidden ? this.#disconnect() : this.#connect());

  #see(visible) {
    this.#visible = visible;
    if (visible) this.#connect();
    else this.#disconnect();
  }

  async #connect() {
    if (this.#socket || !this.#visible || document.hidden) return;
    const opening = (this.#socket = { close() {} }); // until there is a real one
    const socket = await listen(this.#path).catch(() => null);
    if (this.#socket !== opening) return socket?.close();
    if (!socket) return this.#lost(opening);
    this.#socket = socket;
    socket.binaryType = "blob";
    socket.onmessage = ({ data }) => this.#draw(data);
    socket.onclose = () => this.#lost(socket);
  }

  #disconnect() {
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
  }

  #lost(socket) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#timer = setTimeout(() => this.#connect(), AGAIN);
  }

  async #draw(jpeg) {
    if (!(jpeg instanceof Blob)) return;
    const bitmap = await createImageBitmap(jpeg).catch(() => null);
    if (!bitmap) return;
    this.#canvas.width = bitmap.width;
    this.#canvas.height = bitmap.height;
    this.#canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.#drawn = performance.now();
    this.#canvas.dataset.drawn = Number(this.#canvas.dataset.drawn ?? 0) + 1;
    this.#frame.classList.add("live");
  }
}
