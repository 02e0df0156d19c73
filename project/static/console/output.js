/**
 * The output of one command on the page. Text is taken at any rate and drawn once per frame.
 *
 * Long output shows its end, as a terminal does, until somebody asks for all of it; then it is drawn in chunks that the
 * browser need not lay out while they are out of sight.
 */

import { el, selectionTouches } from "./dom.js";
import { TerminalText } from "./terminal.js";

const SHOWN_LINES = 60;
/** Hiding three lines behind a button would be a bad trade. */
const LONGEST_WHOLE = 80;
const CHUNK_LINES = 200;
const LONGEST_LINE = 4000;

export class Output {
  #terminal = new TerminalText();
  #isExpanded = false;
  #isDirty = false;
  /** Chunks that will not change any more. */
  #finished = 0;

  constructor() {
    this.more = el("button", { type: "button", class: "show-all", hidden: true, onclick: () => this.toggle() });
    this.pre = el("pre", { class: "output", hidden: true });
    this.element = el("div", { class: "output-box" }, this.more, this.pre);
  }

  get plain() {
    return this.#terminal.plain;
  }

  get isEmpty() {
    return this.#terminal.lines.length === 1 && !this.#terminal.lines[0].length;
  }

  /** Take text; nothing is drawn yet. */
  write(text) {
    if (!text) return;
    this.#terminal.write(text);
    this.#isDirty = true;
  }

  toggle() {
    this.#isExpanded = !this.#isExpanded;
    this.#redraw();
    // Who asks for all of it wants to read it from its beginning.
    this.element.parentElement?.scrollIntoView({ block: "start" });
  }

  /** @returns {boolean} whether all is drawn; not while somebody selects text in it, which drawing would undo */
  draw() {
    if (!this.#isDirty) return true;
    if (selectionTouches(this.pre)) return false;
    this.#isDirty = false;
    const lines = this.#lines;
    this.pre.hidden = this.isEmpty;
    const isLong = lines.length > LONGEST_WHOLE || lines.some(isTooLong);
    this.more.hidden = !isLong;
    if (isLong) this.more.textContent = this.#isExpanded ? "Show only the end" : describeHidden(lines);
    if (isLong && !this.#isExpanded) this.#drawEnd(lines);
    else this.#drawAll(lines);
    return true;
  }

  #redraw() {
    this.#isDirty = true;
    this.#finished = 0;
    this.pre.replaceChildren();
    this.draw();
  }

  /** The line after a final newline is not one. */
  get #lines() {
    const lines = this.#terminal.lines;
    return lines.length > 1 && !lines.at(-1).length ? lines.slice(0, -1) : lines;
  }

  #drawEnd(lines) {
    this.#finished = 0;
    this.pre.replaceChildren(drawLines(lines.slice(-SHOWN_LINES), LONGEST_LINE));
  }

  #drawAll(lines) {
    while (this.pre.childElementCount > this.#finished) this.pre.lastElementChild.remove();
    for (let first = this.#finished * CHUNK_LINES; first < lines.length; first += CHUNK_LINES) {
      this.pre.append(drawLines(lines.slice(first, first + CHUNK_LINES), Infinity));
    }
    this.#finished = Math.floor((lines.length - 1) / CHUNK_LINES);
  }
}

function describeHidden(lines) {
  if (lines.length > LONGEST_WHOLE) return `Show all ${lines.length.toLocaleString()} lines`;
  return "Show long lines in full";
}

function lengthOf(line) {
  let length = 0;
  for (const piece of line) length += piece.text.length;
  return length;
}

const isTooLong = (line) => line.length > 0 && lengthOf(line) > LONGEST_LINE;

/** Neighbours without a look share one text node: most output is plain, and nodes are what costs. */
function drawLines(lines, longest) {
  const chunk = el("div", { class: "chunk" });
  let plain = "";
  const flush = () => {
    if (plain) chunk.append(plain);
    plain = "";
  };
  for (const line of lines) {
    let room = longest;
    for (const { text, style } of line) {
      const shown = text.length > room ? `${text.slice(0, room)}…` : text;
      if (!style) plain += shown;
      else {
        flush();
        const span = el("span", { class: style.classes || null, text: shown });
        if (style.color) span.style.color = style.color;
        if (style.background) span.style.backgroundColor = style.background;
        chunk.append(span);
      }
      room -= text.length;
      if (room <= 0) break;
    }
    plain += "\n";
  }
  flush();
  return chunk;
}
