// The pages of a long list: which one is shown, and the buttons that turn them.

export const PAGE = 100; // entries

export class Pager {
  #before = []; // where the pages before this one begin; null: at the start
  #after = null; // where this page begins
  #following = null; // where the next one begins; null: this is the last
  #nav;
  #buttons;
  #onTurn;

  /** `nav` has two buttons and a text between them. `onTurn` is called when another page is chosen. */
  constructor(nav, onTurn) {
    this.#nav = nav;
    this.#buttons = nav.querySelectorAll("button");
    this.#onTurn = onTurn;
    this.#buttons[0].onclick = () => this.#turnBack();
    this.#buttons[1].onclick = () => this.#turn();
  }

  /** The query of this page. */
  get query() {
    return `limit=${PAGE}${this.#after === null ? "" : `&after=${encodeURIComponent(this.#after)}`}`;
  }

  /** Whether the list has other entries than those shown. */
  get isPaged() {
    return this.#before.length > 0 || this.#following !== null;
  }

  /** Show which entries are on this page: so many, and what the API says of the next page. */
  show(count, following) {
    this.#following = following ?? null;
    if (count === 0 && this.#before.length) return void this.#turnBack(); // its entries have gone
    const first = this.#before.length * PAGE;
    this.#nav.hidden = !this.isPaged;
    this.#nav.querySelector("span").textContent = `${first + 1} – ${first + count}`;
    this.#buttons[0].disabled = this.#before.length === 0;
    this.#buttons[1].disabled = this.#following === null;
  }

  #turn() {
    this.#before.push(this.#after);
    this.#after = this.#following;
    this.#onTurn();
  }

  #turnBack() {
    this.#after = this.#before.pop();
    this.#onTurn();
  }
}
