// The dialog of one pipeline: what it is made of, its counters, and what can be done with it.

import { ask } from "./door.js";
import { pipelineFacts, shortName, sourceRows } from "./words.js";

const dialog = document.querySelector("#details");
const facts = document.querySelector("#details-facts");
const table = document.querySelector("#details-sources");
const actions = document.querySelector("#details-actions");

export class Details {
  #id = null;
  #failure = "";
  #done;

  /** `done` is called after something was done. */
  constructor(done) {
    this.#done = done;
    dialog.onclose = () => (this.#id = null);
  }

  open(pipeline) {
    this.#id = pipeline.pipeline_id;
    this.#failure = "";
    this.#fill(pipeline);
    dialog.showModal();
  }

  show(pipelines) {
    if (this.#id === null) return;
    const pipeline = pipelines.find(({ pipeline_id }) => pipeline_id === this.#id);
    if (pipeline) this.#fill(pipeline);
    else dialog.close();
  }

  #fill(pipeline) {
    document.querySelector("#details-title").textContent = `${shortName(pipeline.pipeline_id)} – ${pipeline.status}`;
    document.querySelector("#details-reason").textContent = this.#failure || pipeline.reason;
    facts.replaceChildren(...pipelineFacts(pipeline).flatMap(([term, text]) => [element("dt", term), element("dd", text)]));
    const [head, ...rows] = sourceRows(pipeline.sources);
    table.replaceChildren(row("th", head), ...rows.map((cells) => row("td", cells)));
    const paused = pipeline.want === "pause";
    this.#offer([
      [paused ? "Resume" : "Pause", () => this.#post(paused ? "resume" : "pause")],
      ["Restart", () => this.#post("restart")],
      ["Delete", () => confirm(`End ${this.#id} for good?`) && this.#ask("", "DELETE")],
    ]);
  }

  #offer(named) {
    const labels = named.map(([label]) => label).join();
    if (actions.dataset.labels === labels) return; // a button that is being pressed must not be replaced
    actions.dataset.labels = labels;
    actions.replaceChildren(...named.map(([label, act]) => Object.assign(element("button", label), { type: "button", onclick: act })));
  }

  #post(action) {
    return this.#ask(`/${action}`, "POST");
  }

  async #ask(what, method) {
    this.#failure = "";
    try {
      await ask(`v2/pipelines/${encodeURIComponent(this.#id)}${what}`, { method });
    } catch (error) {
      this.#failure = error.message;
    }
    this.#done();
  }
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function row(cell, texts) {
  const line = document.createElement("tr");
  line.append(...texts.map((text) => element(cell, text)));
  return line;
}
