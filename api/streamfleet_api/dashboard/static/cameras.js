// The grid of cameras: one card per pipeline. Cards are kept between refreshes, so that pictures do not restart.

import { Picture } from "./picture.js";
import { cameraMetrics, cameraProblem, colourOf, placeholderText, shortName } from "./labels.js";

const template = document.querySelector("#camera");

export class Cameras {
  #grid;
  #open;
  #cards = new Map(); // pipeline id → {card, picture}

  constructor(grid, open) {
    this.#grid = grid;
    this.#open = open;
  }

  show(pipelines) {
    const current = new Set(pipelines.map((pipeline) => pipeline.pipeline_id));
    for (const [id, { card, picture }] of this.#cards) {
      if (current.has(id)) continue;
      picture.close();
      card.remove();
      this.#cards.delete(id);
    }
    for (const pipeline of pipelines) this.#update(pipeline);
  }

  #update(pipeline) {
    const { card, picture } = this.#cards.get(pipeline.pipeline_id) ?? this.#add(pipeline.pipeline_id);
    const badge = card.querySelector(".badge");
    badge.textContent = pipeline.status;
    badge.className = `badge ${colourOf(pipeline.status)}`;
    card.querySelector(".metrics").textContent = cameraMetrics(pipeline);
    const reason = card.querySelector(".reason");
    reason.textContent = cameraProblem(pipeline);
    reason.hidden = !reason.textContent;
    card.querySelector(".waiting").textContent = placeholderText(pipeline);
    picture.markStale();
  }

  #add(id) {
    const card = template.content.firstElementChild.cloneNode(true);
    card.dataset.pipeline = id;
    const name = card.querySelector(".name");
    name.textContent = shortName(id);
    name.title = id;
    name.onclick = card.querySelector(".picture").onclick = () => this.#open(id);
    this.#grid.append(card);
    const entry = { card, picture: new Picture(id, card.querySelector(".picture")) };
    this.#cards.set(id, entry);
    return entry;
  }
}
