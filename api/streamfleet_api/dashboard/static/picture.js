// A live picture: draws JPEGs from a WebSocket on a canvas while the canvas is visible.

import { openSocket } from "./api.js";

const RECONNECT_DELAY = 2000; // ms
const LATE = 3000; // ms without a picture, after which the last one is shown as stale

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
    // Connect only while the canvas is visible: without a viewer the camera renders no pictures.
    this.#observer = new IntersectionObserver(([entry]) => this.#setVisible(entry.isIntersecting));
    this.#observer.observe(frame);
    document.addEventListener("visibilitychange", this.#tab);
  }

  close() {
    this.#observer.disconnect();
    document.removeEventListener("visibilitychange", this.#tab);
    this.#setVisible(false);
  }

  /** Update whether the picture looks stale. Call it regularly: a frozen picture must not look live. */
  markStale() {
    this.#frame.classList.toggle("stale", performance.now() - this.#drawn > LATE);
  }

  #tab = () => (document.hidden ? this.#disconnect() : this.#connect());

  #setVisible(visible) {
    this.#visible = visible;
    if (visible) this.#connect();
    else this.#disconnect();
  }

  async #connect() {
    if (this.#socket || !this.#visible || document.hidden) return;
    const opening = (this.#socket = { close() {} }); // placeholder until the socket is open
    const socket = await openSocket(this.#path).catch(() => null);
    if (this.#socket !== opening) return socket?.close();
    if (!socket) return this.#reconnectLater(opening);
    this.#socket = socket;
    socket.binaryType = "blob";
    socket.onmessage = ({ data }) => this.#draw(data);
    socket.onclose = () => this.#reconnectLater(socket);
  }

  #disconnect() {
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
  }

  #reconnectLater(socket) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#timer = setTimeout(() => this.#connect(), RECONNECT_DELAY);
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
