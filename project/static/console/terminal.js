/**
 * What a terminal would show of a stream of output, line by line.
 *
 * It understands colours, `\r` and backspace (progress bars write over themselves), erasing within the line and tabs as
 * they are. It does not move between lines: programs behind a pipe do not, and what they wrote must stay readable.
 * Chunks may end anywhere, within an escape sequence too.
 */

/** @typedef {{classes: string, color: string, background: string}|null} Style  null: plain */
/** @typedef {{text: string, style: Style}} Piece */

const CONTROL = /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()*+][0-9A-B]|\x1b[ -~]|[\x00-\x08\x0a-\x1f\x7f]/g;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[()*+])?$/;
/** A sequence that has not ended after this many characters is none. */
const LONGEST_SEQUENCE = 2048;

export class TerminalText {
  /** @type {Piece[][]} the last one is the line being written */
  lines = [[]];
  #column = 0;
  #length = 0;
  #carried = "";
  #look = {};
  /** @type {Style} */
  #style = null;

  write(text) {
    text = this.#carried + text;
    this.#carried = "";
    const unfinished = UNFINISHED.exec(text);
    if (unfinished && text.length - unfinished.index < LONGEST_SEQUENCE) {
      this.#carried = text.slice(unfinished.index);
      text = text.slice(0, unfinished.index);
    }
    let position = 0;
    for (const match of text.matchAll(CONTROL)) {
      if (match.index > position) this.#put(text.slice(position, match.index));
      position = match.index + match[0].length;
      this.#control(match);
    }
    if (position < text.length) this.#put(text.slice(position));
  }

  /** All of it without looks. */
  get plain() {
    return this.lines.map((line) => line.map((piece) => piece.text).join("")).join("\n");
  }

  #control([sequence, parameters, final]) {
    switch (final ?? sequence) {
      case "\n":
        this.lines.push([]);
        this.#column = this.#length = 0;
        break;
      case "\r":
        this.#column = 0;
        break;
      case "\b":
        this.#column = Math.max(0, this.#column - 1);
        break;
      case "m":
        this.#setLook(parameters);
        break;
      case "K":
        this.#erase(Number(parameters) || 0);
        break;
      case "G":
        this.#column = Math.min(this.#length, Math.max(0, (Number(parameters) || 1) - 1));
        break;
    }
  }

  #put(text) {
    const line = this.lines.at(-1);
    if (this.#column === this.#length) {
      const last = line.at(-1);
      if (last && last.style === this.#style) last.text += text;
      else line.push({ text, style: this.#style });
      this.#length += text.length;
    } else {
      const piece = { text, style: this.#style };
      const end = this.#column + text.length;
      this.#setLine([...slice(line, 0, this.#column), piece, ...slice(line, end, Infinity)]);
    }
    this.#column += text.length;
  }

  #erase(what) {
    const line = this.lines.at(-1);
    if (what === 0) this.#setLine(slice(line, 0, this.#column));
    else if (what === 2) {
      this.#setLine([]);
      this.#column = 0;
    }
  }

  #setLine(pieces) {
    this.lines[this.lines.length - 1] = pieces;
    this.#length = pieces.reduce((length, piece) => length + piece.text.length, 0);
  }

  /** Select Graphic Rendition (ECMA-48, 8.3.117). */
  #setLook(parameters) {
    const codes = parameters === "" ? [0] : parameters.split(/[;:]/).map(Number);
    const look = this.#look;
    for (let index = 0; index < codes.length; index++) {
      const code = codes[index];
      if (code === 0) this.#look = {};
      else if (code === 38 || code === 48) {
        const [color, used] = extendedColor(codes.slice(index + 1));
        this.#look = { ...this.#look, [code === 38 ? "color" : "background"]: color };
        index += used;
      } else this.#look = { ...this.#look, ...simpleLook(code) };
    }
    if (look !== this.#look) this.#style = styleOf(this.#look);
  }
}

/** Output as plain text, for transcripts. */
export function plainText(output) {
  const text = new TerminalText();
  text.write(output);
  return text.plain;
}

function slice(line, from, to) {
  const kept = [];
  let start = 0;
  for (const piece of line) {
    const text = piece.text.slice(Math.max(0, from - start), Math.max(0, to - start));
    if (text) kept.push({ text, style: piece.style });
    start += piece.text.length;
  }
  return kept;
}

function simpleLook(code) {
  if (code >= 30 && code <= 37) return { color: code - 30 };
  if (code >= 90 && code <= 97) return { color: code - 82 };
  if (code >= 40 && code <= 47) return { background: code - 40 };
  if (code >= 100 && code <= 107) return { background: code - 92 };
  switch (code) {
    case 1:
      return { bold: true };
    case 2:
      return { faint: true };
    case 3:
      return { italic: true };
    case 4:
      return { underline: true };
    case 7:
      return { inverse: true };
    case 9:
      return { strike: true };
    case 22:
      return { bold: false, faint: false };
    case 23:
      return { italic: false };
    case 24:
      return { underline: false };
    case 27:
      return { inverse: false };
    case 29:
      return { strike: false };
    case 39:
      return { color: undefined };
    case 49:
      return { background: undefined };
    default:
      return {};
  }
}

/** What follows 38 or 48: a colour (a number of the 16, or CSS) and how many codes it took. */
function extendedColor([kind, ...rest]) {
  if (kind === 2) return [`rgb(${rest.slice(0, 3).map((part) => part & 255).join(" ")})`, 4];
  if (kind !== 5) return [undefined, 1];
  const number = rest[0] & 255;
  if (number < 16) return [number, 2];
  if (number >= 232) {
    const grey = 8 + (number - 232) * 10;
    return [`rgb(${grey} ${grey} ${grey})`, 2];
  }
  const level = (digit) => (digit ? 55 + digit * 40 : 0);
  const cube = number - 16;
  return [`rgb(${level(Math.floor(cube / 36))} ${level(Math.floor(cube / 6) % 6)} ${level(cube % 6)})`, 2];
}

/** @returns {Style} */
function styleOf(look) {
  const classes = ["bold", "faint", "italic", "underline", "inverse", "strike"].filter((name) => look[name]);
  if (typeof look.color === "number") classes.push(`fg-${look.color}`);
  if (typeof look.background === "number") classes.push(`bg-${look.background}`);
  const color = typeof look.color === "string" ? look.color : "";
  const background = typeof look.background === "string" ? look.background : "";
  if (!classes.length && !color && !background) return null;
  return { classes: classes.map((name) => `ansi-${name}`).join(" "), color, background };
}
