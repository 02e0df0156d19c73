/** The input: one field, its history, and what may be done with it now. */

import { el } from "./dom.js";

const PLACEHOLDERS = { shell: "Type a command", echo: "Say something, and it comes back" };
const HISTORY_LENGTH = 500;
const TALLEST = 240;

/** What a text typed for a runtime means as an action. */
export function actionFor(runtime, text) {
  return runtime === "shell" ? ["run", { command: text }] : ["message", { content: text }];
}

/** The text of an action, if it is one that somebody typed. */
export function typedText(event) {
  if (event.action === "run" && !event.args?.hidden) return event.args?.command ?? null;
  if (event.action === "message") return event.args?.content ?? null;
  return null;
}

/** Events: `submit` with `{text}`, `interrupt`. */
export class Composer extends EventTarget {
  #form;
  #field;
  #button;
  #hint;
  #history = [];
  /** Where in the history we are; its length: at the text being written. */
  #position = 0;
  #draft = "";

  constructor({ form, field, button, hint }) {
    super();
    this.#form = form;
    this.#field = field;
    this.#button = button;
    this.#hint = hint;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    field.addEventListener("keydown", (event) => this.#onKey(event));
    field.addEventListener("input", () => {
      this.#position = this.#history.length;
      this.#fit();
    });
  }

  setRuntime(runtime) {
    const isShell = runtime === "shell";
    this.#form.dataset.runtime = isShell ? "shell" : "words";
    this.#field.placeholder = PLACEHOLDERS[runtime] ?? "Write a message";
    // A keyboard that corrects prose spoils commands.
    this.#field.setAttribute("autocapitalize", isShell ? "off" : "sentences");
    this.#field.setAttribute("autocorrect", isShell ? "off" : "on");
    this.#field.spellcheck = !isShell;
  }

  /** @param {string|null} reason  why nothing can be sent; null: it can */
  setReason(reason) {
    this.#field.disabled = reason !== null;
    this.#button.disabled = reason !== null;
    this.#form.classList.toggle("disabled", reason !== null);
    this.#hint.replaceChildren(
      ...(reason === null
        ? [el("kbd", { text: "Enter" }), " sends, ", el("kbd", { text: "Shift+Enter" }), " starts a line, ", el("kbd", { text: "↑" }), " recalls"]
        : [reason]),
    );
  }

  remember(text) {
    if (!text || this.#history.at(-1) === text) return;
    const wasAtEnd = this.#position === this.#history.length;
    this.#history.push(text);
    if (this.#history.length > HISTORY_LENGTH) this.#history.shift();
    if (wasAtEnd) this.#position = this.#history.length;
  }

  forgetAll() {
    this.#history = [];
    this.#position = 0;
  }

  focus() {
    // On a phone the keyboard would cover half of what one came to read.
    if (!this.#field.disabled && matchMedia("(pointer: fine)").matches) this.#field.focus();
  }

  #submit() {
    const text = this.#field.value.replace(/\s+$/, "");
    if (!text.trim() || this.#field.disabled) return;
    this.#set("");
    this.remember(text);
    this.#position = this.#history.length;
    this.dispatchEvent(new CustomEvent("submit", { detail: { text } }));
  }

  #onKey(event) {
    if (event.isComposing) return;
    const { selectionStart, selectionEnd, value } = this.#field;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && !event.shiftKey && !value.slice(0, selectionStart).includes("\n")) {
      if (this.#recall(-1)) event.preventDefault();
    } else if (event.key === "ArrowDown" && !event.shiftKey && !value.slice(selectionEnd).includes("\n")) {
      if (this.#recall(1)) event.preventDefault();
    } else if (event.key === "c" && event.ctrlKey && selectionStart === selectionEnd && getSelection().isCollapsed) {
      this.dispatchEvent(new CustomEvent("interrupt"));
    }
  }

  #recall(step) {
    const position = this.#position + step;
    if (position < 0 || position > this.#history.length) return false;
    if (this.#position === this.#history.length) this.#draft = this.#field.value;
    this.#position = position;
    this.#set(position === this.#history.length ? this.#draft : this.#history[position]);
    return true;
  }

  #set(text) {
    this.#field.value = text;
    this.#field.setSelectionRange(text.length, text.length);
    this.#fit();
  }

  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, TALLEST)}px`;
  }
}
