/** A session's events as a file for people, or for programs. */

import { STATE_WORDS } from "./blocks.js";
import { el } from "./dom.js";
import { plainText } from "./terminal.js";

/** The events as they came, which loses nothing. */
export function asJson(session, events) {
  return JSON.stringify({ ...session, exported_at: new Date().toISOString(), events }, null, 2);
}

/** What a reader wants: each command with all of its output below it, although parts of others came in between. */
export function asText(session, events) {
  const outputs = new Map();
  for (const event of events) {
    if (event.observation !== "run") continue;
    const run = outputs.get(event.cause) ?? { text: "", code: -1 };
    run.text += event.content ?? "";
    run.code = event.extras?.exit_code ?? run.code;
    outputs.set(event.cause, run);
  }
  const lines = [session.title || "Session", `${session.id}, exported ${new Date().toISOString()}`, ""];
  const shown = new Set();
  for (const event of events) {
    const text = event.observation === "run" ? runText(event, outputs, shown) : eventText(event, outputs, shown);
    if (text) lines.push(`[${event.timestamp.slice(0, 19).replace("T", " ")}] ${text}`);
  }
  return `${lines.join("\n")}\n`;
}

function eventText(event, outputs, shown) {
  if (event.action === "run") {
    const command = `$ ${event.args?.hidden ? "(hidden)" : (event.args?.command ?? "")}`;
    const run = outputs.get(event.id);
    shown.add(event.id);
    return run ? `${command}\n${endOf(run)}` : command;
  }
  if (event.action === "message") return `${event.source}: ${event.args?.content ?? event.message}`;
  if (event.observation === "agent_state_changed") {
    const state = event.extras?.agent_state;
    return `-- ${STATE_WORDS[state] ?? state}`;
  }
  if (event.observation === "echo") return `echo: ${event.content}`;
  if (event.observation === "error") return `error: ${plainText(event.content || event.message || "")}`;
  const body = event.content || event.message || JSON.stringify(event.args ?? event.extras ?? {});
  return `${event.source}, ${event.action ?? event.observation}: ${body}`;
}

/** Output whose command the log no longer has. */
function runText(event, outputs, shown) {
  if (shown.has(event.cause)) return null;
  shown.add(event.cause);
  return `$ ${event.extras?.command ?? ""}\n${endOf(outputs.get(event.cause))}`;
}

function endOf({ text, code }) {
  const output = plainText(text).replace(/\n+$/, "");
  return `${output}${output ? "\n" : ""}(${code === -1 ? "no exit code" : `exit code ${code}`})`;
}

/** Hand a file to the reader; it is made here and never leaves the browser. */
export function download(name, type, text) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

export function fileName(session, ending) {
  const words = (session.title || "session").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${words.slice(0, 60) || "session"}-${String(session.id).slice(0, 8)}.${ending}`;
}
