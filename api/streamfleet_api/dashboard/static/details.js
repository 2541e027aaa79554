// The dialog of one pipeline: settings, counters and commands.

import { request } from "./api.js";
import { pipelineFacts, shortName, sourceFacts } from "./labels.js";

const dialog = document.querySelector("#details");
const facts = document.querySelector("#details-facts");
const sources = document.querySelector("#details-sources");
const note = document.querySelector("#details-note");
const actions = document.querySelector("#details-actions");

export class Details {
  #id = null;
  #done;

  /** `done` is called after each command. */
  constructor(done) {
    this.#done = done;
    dialog.onclose = () => (this.#id = null);
  }

  async open(id) {
    this.#id = id;
    note.textContent = "";
    await this.refresh();
    if (this.#id === id && !dialog.open) dialog.showModal();
  }

  /** Show the present state of the pipeline; without one, close the dialog. */
  async refresh() {
    const id = this.#id;
    if (id === null) return;
    const pipeline = await request(`v2/pipelines/${encodeURIComponent(id)}`).catch((error) => {
      if (error.status !== 404) throw error;
      return null;
    });
    if (this.#id !== id) return;
    if (pipeline) this.#fill(pipeline);
    else this.#close();
  }

  #close() {
    this.#id = null;
    dialog.close();
  }

  #fill(pipeline) {
    document.querySelector("#details-title").textContent = `${shortName(pipeline.pipeline_id)} – ${pipeline.status}`;
    document.querySelector("#details-reason").textContent = pipeline.reason;
    facts.replaceChildren(...terms(pipelineFacts(pipeline)));
    sources.replaceChildren(...sourceFacts(pipeline).map(sourceItem));
    const paused = pipeline.desired_status === "pause";
    this.#setActions([
      [paused ? "Resume" : "Pause", () => this.#post(paused ? "resume" : "pause")],
      ["Restart", () => this.#post("restart")],
      ["Delete", () => confirm(`Delete the pipeline ${this.#id}?`) && this.#command("", "DELETE")],
    ]);
  }

  #setActions(named) {
    const labels = named.map(([label]) => label).join();
    if (actions.dataset.labels === labels) return; // do not replace a button while it is pressed
    actions.dataset.labels = labels;
    actions.replaceChildren(...named.map(([label, act]) => Object.assign(element("button", label), { type: "button", onclick: act })));
  }

  #post(action) {
    return this.#command(`/${action}`, "POST");
  }

  async #command(path, method) {
    const id = this.#id;
    note.textContent = "…";
    const result = await request(`v2/pipelines/${encodeURIComponent(id)}${path}`, { method }).then(
      () => "Done.",
      (error) => error.message,
    );
    if (this.#id === id) note.textContent = result;
    this.#done();
  }
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function terms(facts) {
  return facts.flatMap(([term, text]) => [element("dt", term), element("dd", text)]);
}

function sourceItem({ title, facts }) {
  const item = document.createElement("li");
  const list = document.createElement("dl");
  list.append(...terms(facts));
  item.append(element("strong", title), list);
  return item;
}
