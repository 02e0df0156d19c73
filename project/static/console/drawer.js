/** The list of sessions as a drawer, where there is no room beside the session. */

import { byId } from "./dom.js";

export class Drawer {
  #narrow = matchMedia("(max-width: 860px)");

  constructor() {
    byId("sidebar-open").addEventListener("click", () => this.open());
    byId("sidebar-close").addEventListener("click", () => this.close());
    byId("veil").addEventListener("click", () => this.close());
    addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.#narrow.addEventListener("change", () => this.close());
    this.#apply(false);
  }

  open() {
    this.#apply(true);
    byId("sidebar-close").focus();
  }

  close() {
    const wasOpen = document.body.classList.contains("drawer-open");
    this.#apply(false);
    if (wasOpen) byId("sidebar-open").focus();
  }

  #apply(isOpen) {
    document.body.classList.toggle("drawer-open", isOpen);
    byId("veil").hidden = !isOpen;
    byId("sidebar-open").setAttribute("aria-expanded", String(isOpen));
    // A drawer out of sight must be out of the tab order, and an open one holds the focus.
    byId("sidebar").inert = this.#narrow.matches && !isOpen;
    byId("stage").inert = isOpen;
  }
}
