/** A button with a menu below it, as the ARIA practices describe: arrows move, Escape closes and gives the focus back. */

export class Menu {
  #button;
  #list;

  constructor(button, list) {
    this.#button = button;
    this.#list = list;
    button.addEventListener("click", () => this.#show(list.hidden));
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("click", (event) => event.target.closest("[role=menuitem]") && this.#show(false));
    document.addEventListener("pointerdown", (event) => {
      if (!list.hidden && !list.contains(event.target) && !button.contains(event.target)) this.#show(false);
    });
    list.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !list.contains(event.relatedTarget) && event.relatedTarget !== button) this.#show(false);
    });
  }

  get #items() {
    return [...this.#list.querySelectorAll("[role=menuitem]")].filter((item) => !item.hidden && !item.disabled);
  }

  #show(wanted) {
    this.#list.hidden = !wanted;
    this.#button.setAttribute("aria-expanded", String(wanted));
    if (wanted) this.#items[0]?.focus();
  }

  #onKey(event) {
    const items = this.#items;
    const index = items.indexOf(document.activeElement);
    const next = { ArrowDown: index + 1, ArrowUp: index - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      items[next % items.length]?.focus();
    } else if (event.key === "Escape") {
      this.#show(false);
      this.#button.focus();
    }
  }
}
