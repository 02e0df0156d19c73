/** The page's questions. Each is a <dialog> of the template, which keeps the focus and gives it back. */

import { byId, copyText } from "./dom.js";

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

/**
 * @param {object} options
 * @param {(role: string) => Promise<string>} options.makeLink
 * @param {string|null} options.ownLink  for those who cannot make links: the one they have
 * @param {string} options.role
 */
export function showShare({ makeLink, ownLink, role }) {
  const dialog = byId("share-dialog");
  const choice = byId("share-choice");
  const field = byId("share-link");
  const copy = byId("share-copy");
  const note = byId("share-note");
  const isOwner = ownLink === null;
  // A second press while a link is made must not let an older answer overwrite a newer one.
  let latest = 0;

  const update = async () => {
    const wanted = ++latest;
    field.value = "";
    copy.disabled = true;
    note.textContent = isOwner ? "Making the link…" : "";
    try {
      const link = isOwner ? await makeLink(new FormData(dialog.querySelector("form")).get("role")) : ownLink;
      if (wanted !== latest) return;
      field.value = link;
      copy.disabled = false;
      note.textContent = isOwner
        ? "Whoever has this link has this access. It is shown nowhere else."
        : `Whoever has your link may do what you may: ${role === "viewer" ? "watch" : "watch and send"}.`;
    } catch (error) {
      if (wanted === latest) note.textContent = error.message;
    }
  };

  choice.hidden = !isOwner;
  choice.onchange = update;
  field.onfocus = () => field.select();
  copy.textContent = "Copy link";
  copy.onclick = async () => {
    copy.textContent = (await copyText(field.value)) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (copy.textContent = "Copy link"), 1500);
  };
  dialog.showModal();
  update();
}
