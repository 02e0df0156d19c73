/** A short message that goes by itself, or when it is clicked. */

import { byId, el } from "./dom.js";

const SHOWN_FOR = 7000;

export function toast(text, isBad = false) {
  if (!text) return;
  const box = byId("toasts");
  for (const other of box.children) if (other.textContent === text) other.remove();
  const message = el("button", { type: "button", class: isBad ? "toast bad" : "toast", text, title: "Dismiss" });
  const remove = () => message.remove();
  message.addEventListener("click", remove);
  setTimeout(remove, SHOWN_FOR);
  box.append(message);
}
