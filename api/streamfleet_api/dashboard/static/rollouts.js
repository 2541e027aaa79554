// The list of the last roll-outs, the newest first. One that is not over can be ended here.

import { request } from "./api.js";

const SHOWN = 5;
const COLOURS = { done: "good", returning: "bad", returned: "bad", stopped: "" }; // all others: under way

const section = document.querySelector("#rollouts-section");
const list = document.querySelector("#rollouts");

export class Rollouts {
  #items = new Map(); // by id: buttons stay while they are pressed
  #done;

  /** `done` is called after each command. */
  constructor(done) {
    this.#done = done;
  }

  /** Whether one of those shown is under way. */
  get areActive() {
    return [...this.#items.values()].some((item) => item.isActive);
  }

  /** Show the last of these roll-outs. They are given with the oldest first. */
  show(rollouts) {
    const last = rollouts.slice(-SHOWN).reverse();
    const known = this.#items;
    this.#items = new Map(last.map(({ id }) => [id, known.get(id) ?? new Item(id, this.#done)]));
    for (const rollout of last) this.#items.get(rollout.id).show(rollout);
    const lines = [...this.#items.values()].map((item) => item.line);
    if (lines.length !== list.children.length || lines.some((line, number) => line !== list.children[number])) {
      list.replaceChildren(...lines);
    }
    section.hidden = lines.length === 0;
  }
}

class Item {
  line = element("li");
  isActive = false;
  #id;
  #done;
  #old = "";
  #title = element("strong");
  #badge = element("span");
  #counts = element("p", "metrics");
  #reason = element("p", "reason");
  #note = element("p", "metrics");
  #actions = element("div", "actions");

  constructor(id, done) {
    this.#id = id;
    this.#done = done;
    this.line.dataset.rollout = id;
    const head = element("div", "head");
    head.append(this.#title, this.#badge);
    this.#note.setAttribute("role", "status");
    this.#actions.append(
      button("Return", () => confirm(`Let all of its pipelines use ${this.#old} again?`) && this.#cancel(false)),
      button("Stop", () => confirm("End it, and leave each pipeline with the model that it has?") && this.#cancel(true)),
    );
    this.line.append(head, this.#counts, this.#reason, this.#actions, this.#note);
  }

  show(rollout) {
    const { phase, reason, ended_at: endedAt } = rollout;
    this.isActive = endedAt === null;
    this.#old = rollout.model.id;
    this.#title.textContent = `${rollout.model.id} → ${rollout.to.id}`;
    this.#badge.textContent = phase;
    this.#badge.className = `badge ${COLOURS[phase] ?? "warn"}`;
    this.#counts.textContent = counts(rollout);
    this.#reason.textContent = reason;
    this.#reason.hidden = !reason;
    this.#actions.hidden = !this.isActive;
    if (!this.isActive) this.#note.textContent = "";
  }

  async #cancel(keep) {
    this.#note.textContent = "…";
    const path = `v2/rollouts/${encodeURIComponent(this.#id)}/cancel?keep=${keep}`;
    this.#note.textContent = await request(path, { method: "POST" }).then(() => "", (error) => error.message);
    this.#done();
  }
}

/** Which wave it is in, and how many of its pipelines are how far. */
function counts({ phase, canaries, max_unavailable: most, stages }) {
  const all = Object.values(stages).reduce((sum, count) => sum + count, 0);
  const each = Object.entries(stages).sort().map(([stage, count]) => `${count} ${stage}`);
  const waves = { canary: [`first wave of ${canaries}`], waves: [`waves of up to ${most}`] };
  return [`${all} ${all === 1 ? "pipeline" : "pipelines"}`, ...(waves[phase] ?? []), ...each].join(" · ");
}

function button(text, onclick) {
  return Object.assign(element("button"), { type: "button", textContent: text, onclick });
}

function element(name, className = "") {
  return Object.assign(document.createElement(name), { className });
}
