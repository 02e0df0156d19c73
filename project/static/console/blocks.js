/** How each kind of event looks: one function or class per kind, each giving an `element` for the timeline. */

import { copyButton, el } from "./dom.js";
import { Output } from "./output.js";
import { plainText } from "./terminal.js";
import { duration, timeElement } from "./time.js";

/** Agent states in words. Those that come and go with each command are shown in the header, not in the timeline. */
export const STATE_WORDS = {
  loading: "Waking up…",
  init: "Ready",
  running: "Working…",
  awaiting_user_input: "Ready",
  paused: "Paused",
  stopped: "Asleep",
  finished: "Finished",
  rejected: "Rejected",
  error: "Stopped by an error",
  awaiting_user_confirmation: "Waiting for your confirmation",
};
const PASSING_STATES = new Set(["running", "awaiting_user_input"]);

export const isPassing = (state) => PASSING_STATES.has(state);

/** A command and all of its output, growing while it runs. */
export class RunBlock {
  #output = new Output();
  #started;
  #copy;

  /**
   * @param {string} command
   * @param {string|null} timestamp  of the action; null when the log no longer has it
   * @param {boolean} isHidden  the command was not meant to be seen
   */
  constructor(command, timestamp, isHidden = false) {
    this.#started = timestamp;
    this.badge = el("span", { class: "badge", hidden: true });
    this.#copy = copyButton("Copy output", () => this.#output.plain);
    this.#copy.hidden = true;
    const shown = isHidden ? el("i", { text: "hidden input" }) : command;
    this.element = el(
      "li",
      { class: "entry run" },
      el(
        "div",
        { class: "run-head" },
        el("span", { class: "prompt", "aria-hidden": "true", text: "$" }),
        el("code", { class: "command" }, shown),
        el("span", { class: "meta" }, this.#copy, this.badge, timestamp && timeElement(timestamp)),
      ),
      this.#output.element,
    );
  }

  /** @param {{content?: string, timestamp?: string, extras?: {exit_code?: number}}} event */
  add(event) {
    this.#output.write(event.content ?? "");
    const code = event.extras?.exit_code ?? event.extras?.metadata?.exit_code;
    if (code === undefined || code === -1) this.#show("running", "running");
    else this.#finish(code, event.timestamp);
  }

  /** The session went to sleep or died: this is no longer running, whatever its last event said. */
  abandon() {
    if (this.element.dataset.status === "running") this.#show("unknown", "no result");
  }

  /** An error came instead of an exit code. */
  fail() {
    this.#show("failed", "error");
  }

  draw() {
    const isDrawn = this.#output.draw();
    this.#copy.hidden = this.#output.isEmpty;
    return isDrawn;
  }

  #finish(code, timestamp) {
    const took = this.#started && timestamp ? duration(this.#started, timestamp) : "";
    const word = code === 130 ? "stopped, exit code 130" : `exit code ${code}`;
    this.#show(code === 0 ? "done" : code === 130 ? "stopped" : "failed", took ? `${word}, ${took}` : word);
  }

  #show(status, text) {
    if (this.element.dataset.status === status && this.badge.textContent === text) return;
    this.element.dataset.status = status;
    this.badge.hidden = false;
    this.badge.textContent = text;
  }
}

/** Something somebody said. */
export function messageBlock(event, text, who) {
  const isUser = event.source === "user";
  return el(
    "li",
    { class: `entry message ${isUser ? "from-user" : "from-agent"}` },
    el(
      "div",
      { class: "bubble" },
      el("span", { class: "who" }, who ?? (isUser ? "You" : "Agent"), timeElement(event.timestamp)),
      prose(text),
      images(event.args?.image_urls),
    ),
  );
}

/** The agent's state, as a line between things. `show` changes it in place: loading, then ready. */
export class StateBlock {
  constructor(event) {
    this.word = el("span");
    this.time = el("span");
    this.element = el("li", { class: "entry state" }, this.word, this.time);
    this.show(event);
  }

  show(event) {
    const state = event.extras?.agent_state ?? "";
    this.word.textContent = STATE_WORDS[state] ?? state;
    this.element.dataset.state = state;
    this.time.replaceChildren(timeElement(event.timestamp) ?? "");
  }
}

export function lineBlock(event, text) {
  return el("li", { class: "entry state" }, el("span", { text }), timeElement(event.timestamp));
}

export function errorBlock(event) {
  return el(
    "li",
    { class: "entry error" },
    el("p", { class: "who" }, "Error", timeElement(event.timestamp)),
    el("pre", { class: "error-text", text: plainText(event.content || event.message || "No details.") }),
  );
}

/** Of an echo the content is what matters; what else it repeats can be opened. */
export function echoBlock(event) {
  const content = event.content || "";
  return el(
    "li",
    { class: "entry message from-agent" },
    el(
      "div",
      { class: "bubble" },
      el("span", { class: "who" }, "Echo", timeElement(event.timestamp)),
      content ? prose(content) : el("p", { class: "muted", text: "(nothing to repeat)" }),
      content ? null : jsonDetails("Details", event.extras),
    ),
  );
}

/** A kind this page has no look for: its name, its words, and all of it on demand. */
export function unknownBlock(event) {
  const kind = event.action ?? event.observation ?? "event";
  const words = event.message || event.content || event.args?.thought || event.args?.content || "";
  const summary = el(
    "span",
    {},
    el("span", { class: "kind", text: kind }),
    words && el("span", { class: "kind-words", text: String(words).slice(0, 300) }),
  );
  return el("li", { class: "entry other" }, jsonDetails(summary, event), timeElement(event.timestamp));
}

export function dayBlock(text) {
  return el("li", { class: "entry day" }, el("span", { text }));
}

/** Filled when it is opened: most are never. */
function jsonDetails(summary, value) {
  const details = el("details", {}, el("summary", {}, summary));
  details.addEventListener(
    "toggle",
    () => details.append(el("pre", { class: "json", text: JSON.stringify(value, null, 2) })),
    { once: true },
  );
  return details;
}

/** Paragraphs, fenced code and `code`: what people and agents write, without being a Markdown reader. */
function prose(text) {
  const box = el("div", { class: "prose" });
  const parts = String(text).split(/^```[^\n]*\n([\s\S]*?)(?:^```\s*$|(?![\s\S]))/m);
  parts.forEach((part, index) => {
    if (index % 2) box.append(el("pre", { class: "fenced", text: part.replace(/\n$/, "") }));
    else if (part.trim()) box.append(paragraph(part.replace(/^\n+|\n+$/g, "")));
  });
  return box;
}

function paragraph(text) {
  const pieces = text.split(/`([^`\n]+)`/);
  return el("p", {}, ...pieces.map((piece, index) => (index % 2 ? el("code", { text: piece }) : piece)));
}

/** Only images that are in the event itself: an address would tell its server who reads this. */
function images(urls) {
  if (!Array.isArray(urls)) return null;
  const own = urls.filter((url) => typeof url === "string" && /^data:image\/(png|jpeg|gif|webp);/.test(url));
  return own.length ? el("div", { class: "images" }, ...own.map((src) => el("img", { src, alt: "Attached image" }))) : null;
}

/** What the user sent and the server has not stored yet. */
export class PendingBlock {
  constructor(action, { onRetry, onDiscard }) {
    const command = action.args.command;
    const text = command ?? action.args.content ?? action.type;
    this.note = el("span", { class: "pending-note" });
    this.retry = el("button", { type: "button", class: "quiet-button", text: "Send again", onclick: onRetry });
    this.discard = el("button", { type: "button", class: "quiet-button", text: "Discard", onclick: onDiscard });
    const body =
      command === undefined
        ? el("div", { class: "bubble" }, prose(text))
        : el(
            "div",
            { class: "run-head" },
            el("span", { class: "prompt", "aria-hidden": "true", text: "$" }),
            el("code", { class: "command", text }),
          );
    const kind = command === undefined ? "message from-user" : "run";
    this.element = el(
      "li",
      { class: `entry pending ${kind}` },
      body,
      el("p", { class: "pending-line" }, this.note, this.retry, this.discard),
    );
    this.show(action, true);
  }

  show(action, isConnected) {
    const isFailed = action.status === "failed";
    this.element.classList.toggle("failed", isFailed);
    if (isFailed) this.note.textContent = `Not sent: ${action.error?.message || action.error?.reason || "refused"}`;
    else this.note.textContent = isConnected ? "Sending…" : "Waiting for the connection";
    this.retry.hidden = !isFailed;
    this.discard.hidden = !isFailed && isConnected;
  }
}
