/** The list of sessions: the account's, and those that this browser remembers. On a phone it is a drawer. */

import { el } from "./dom.js";
import { forgetSession, rememberedSessions } from "./remembered.js";
import { ago } from "./time.js";

const STATE_TITLES = {
  starting: "Waking up",
  running: "Awake",
  passivating: "Going to sleep",
  passivated: "Asleep",
  failed: "Failed",
  closed: "Closed",
};

/** Events: `open` with `{id, token}`. */
export class Sidebar extends EventTarget {
  #list;
  #note;
  #api;
  #isAuthenticated;
  #current = null;
  #account = [];

  constructor({ list, note, api, isAuthenticated }) {
    super();
    this.#list = list;
    this.#note = note;
    this.#api = api;
    this.#isAuthenticated = isAuthenticated;
  }

  /** Mark the session that is open. */
  setCurrent(id) {
    this.#current = id;
    this.draw();
  }

  async refresh() {
    if (this.#isAuthenticated) {
      try {
        this.#account = await this.#api.list();
      } catch {
        // The list of a moment ago is better than none.
      }
    }
    this.draw();
  }

  draw() {
    const sessions = this.#merged();
    this.#list.replaceChildren(...sessions.map((session) => this.#item(session)));
    this.#note.hidden = sessions.length > 0;
  }

  #merged() {
    const remembered = rememberedSessions();
    const known = new Map(remembered.map((one) => [one.id, one]));
    const account = this.#account.map((one) => ({
      ...one,
      title: one.title || known.get(one.id)?.title || "",
      token: known.get(one.id)?.token ?? "",
      at: one.last_activity_at ?? one.created_at,
    }));
    const own = new Set(account.map((one) => one.id));
    const others = remembered.filter((one) => !own.has(one.id)).map((one) => ({ ...one, at: one.seen, isLocal: true }));
    return [...account, ...others].sort((a, b) => (a.at < b.at ? 1 : -1));
  }

  #item({ id, token, title, runtime, state, at, isLocal }) {
    const link = el(
      "a",
      { href: `/s/${id}${token ? `#${token}` : ""}`, "aria-current": id === this.#current ? "page" : null },
      el("span", { class: "session-title", text: title || "Untitled session" }),
      el("span", { class: "session-line", text: [STATE_TITLES[state], runtime, ago(at)].filter(Boolean).join(" · ") }),
    );
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.dispatchEvent(new CustomEvent("open", { detail: { id, token: token || null } }));
    });
    const forget =
      isLocal &&
      id !== this.#current &&
      el("button", {
        type: "button",
        class: "forget",
        title: "Forget on this device",
        "aria-label": `Forget ${title || "untitled session"} on this device`,
        text: "×",
        onclick: () => {
          forgetSession(id);
          this.draw();
        },
      });
    return el("li", { dataset: { state: state ?? "" } }, link, forget);
  }
}
