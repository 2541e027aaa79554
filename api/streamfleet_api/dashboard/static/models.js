// The list of models, and the card of one. A card has an address of its own, `#model/ID`, to be linked to.

import { request } from "./api.js";
import { modelClasses, modelFacts, modelSummary } from "./model_labels.js";

const ADDRESS = "#model/";

const list = document.querySelector("#models");
const dialog = document.querySelector("#model");
const note = document.querySelector("#model-note");

export class Models {
  #shown = ""; // the id of the model in the card

  constructor() {
    dialog.onclose = () => this.#forget();
    window.addEventListener("hashchange", () => this.#follow());
  }

  /** Show all models, and the card that the address names. */
  show(models) {
    list.replaceChildren(...models.map(item));
    document.querySelector("#no-models").hidden = models.length > 0;
    if (!dialog.open) this.#follow();
  }

  /** Remove the closed card from the address, unless another one was chosen meanwhile: a close is told late. */
  #forget() {
    if (!dialog.open && named() === this.#shown) history.replaceState(null, "", location.pathname + location.search);
  }

  async #follow() {
    const id = named();
    if (id === null) return;
    this.#shown = id;
    clear(id);
    if (!dialog.open) dialog.showModal();
    const path = id.split("/").map(encodeURIComponent).join("/");
    const answer = await request(`v2/models/${path}`).then((model) => ({ model }), (error) => ({ error }));
    if (named() !== id) return; // another one was chosen meanwhile
    if (answer.error) note.textContent = answer.error.message;
    else fill(answer.model);
  }
}

function item(model) {
  const line = element("li");
  const link = Object.assign(element("a", model.id), { href: `${ADDRESS}${encodeURIComponent(model.id)}` });
  line.dataset.model = model.id;
  line.append(link, Object.assign(element("p", modelSummary(model)), { className: "metrics" }));
  return line;
}

function clear(id) {
  document.querySelector("#model-title").textContent = id;
  note.textContent = "…";
  for (const part of ["#model-facts", "#model-labels"]) document.querySelector(part).replaceChildren();
  for (const part of ["#model-classes", "#model-try"]) document.querySelector(part).textContent = "";
}

function fill(model) {
  const { title, labels } = modelClasses(model);
  note.textContent = "";
  const terms = modelFacts(model).flatMap(([term, text]) => [element("dt", term), element("dd", text)]);
  document.querySelector("#model-facts").replaceChildren(...terms);
  document.querySelector("#model-classes").textContent = title;
  document.querySelector("#model-labels").replaceChildren(...labels.map((label) => element("li", label)));
  document.querySelector("#model-try").textContent = `streamfleet models try ${model.id} FILE`;
}

/** The id of the model that the address names; null if it names none. */
function named() {
  return location.hash.startsWith(ADDRESS) ? decoded(location.hash.slice(ADDRESS.length)) : null;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // of an address that someone typed
  }
}

function element(name, text = "") {
  return Object.assign(document.createElement(name), { textContent: text });
}
