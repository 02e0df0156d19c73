/** The page's questions. Each is a <dialog> of the template, which keeps the focus and gives it back. */

import { byId } from "./dom.js";

/** Ask; resolves to the form's data if it was agreed to, else null. */
function ask(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "ok" ? new FormData(dialog.querySelector("form")) : null),
      { once: true },
    );
    dialog.showModal();
  });
}

/** A click beside a dialog means no. Cancel is no submit button: the first of those is what Enter in a field presses. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", ({ target }) => (target === dialog || target.closest("[data-cancel]")) && dialog.close());
  }
}

export async function askTitle(title) {
  const field = byId("rename-title");
  field.value = title;
  const answer = ask(byId("rename-dialog"));
  field.select();
  return (await answer)?.get("title").trim() ?? null;
}

export async function confirmClose() {
  return (await ask(byId("close-dialog"))) !== null;
}
