/** Who, what and how it stands, in words: the bar above the timeline and the banner below it. */

import { STATE_WORDS } from "./blocks.js";
import { byId, el } from "./dom.js";

const SESSION_WORDS = {
  starting: "waking up…",
  passivating: "going to sleep…",
  passivated: "asleep",
  failed: "failed",
  closed: "closed",
};
const ROLE_WORDS = { viewer: "you watch", editor: "shared with you", owner: "" };

export class Header {
  setTitle(title) {
    byId("title").textContent = title;
    byId("title").title = title;
  }

  clear() {
    for (const id of ["connection", "agent-state", "presence", "role"]) byId(id).textContent = "";
    byId("banner").hidden = true;
    byId("stop").hidden = true;
    byId("stop").disabled = true;
  }

  showConnection({ state, text }) {
    const element = byId("connection");
    element.dataset.state = state;
    if (element.textContent !== text) element.textContent = text;
  }

  /** @param {{connections?: number, users?: string[]}} presence */
  showPresence({ connections = 0, users = [] }) {
    const names = [...new Set(users)].filter(Boolean);
    const element = byId("presence");
    element.textContent = connections > 1 ? `${connections} here` : "just you";
    element.title = names.join(", ");
    if (connections > 1 && names.length && names.length <= 3) element.textContent += `: ${names.join(", ")}`;
  }

  /** @returns {string|null} why nothing can be sent; null: it can */
  showState({ session, agentState, connection, isOwn }) {
    const state = SESSION_WORDS[session.state] ?? STATE_WORDS[agentState]?.toLowerCase() ?? "";
    const isRunning = agentState === "running" && session.state === "running";
    const isViewer = session.role === "viewer";
    // Without a connection both would be what was, not what is.
    const isLive = connection.state === "connected";
    byId("agent-state").textContent = isLive ? state : "";
    byId("presence").hidden = !isLive;
    byId("role").textContent = (!isOwn && ROLE_WORDS[session.role]) || "";
    byId("stop").hidden = !isRunning || isViewer;
    byId("stop").disabled = !isRunning || isViewer || !isLive;
    byId("close").hidden = session.role !== "owner" || session.state === "closed";
    byId("rename").hidden = isViewer;
    byId("share").disabled = !session.id || !session.token;
    if (session.state === "closed") return "This session is closed. You can read it, but send nothing.";
    if (isViewer) return "You are watching. To take part, ask the owner for another link.";
    return null;
  }

  /**
   * @param {object} facts  `session`, `agentState`, `connection`
   * @param {object} handlers  `retry`, `startNew`, `setAgentState`
   */
  showBanner(facts, handlers) {
    const banner = byId("banner");
    const [kind, text, ...choices] = bannerFor(facts, handlers);
    banner.hidden = !kind;
    banner.dataset.kind = kind ?? "";
    // Written only when it changes: a status that is written again is read aloud again.
    const said = JSON.stringify([text, choices.map(([label]) => label)]);
    if (banner.dataset.said === said) return;
    banner.dataset.said = said;
    const buttons = choices.map(([label, onclick]) => el("button", { type: "button", class: "button", text: label, onclick }));
    banner.replaceChildren(el("span", { text: text ?? "" }), el("span", { class: "banner-tools" }, ...buttons));
  }
}

function bannerFor({ session, agentState, connection }, { retry, startNew, setAgentState }) {
  switch (connection.state) {
    case "refused":
      return ["bad", connection.text, ["Reconnect", retry]];
    case "offline":
      return ["wait late", "You are offline. What you send is kept and goes out later.", ["Try now", retry]];
    case "reconnecting":
      return ["wait late", "The connection is lost. What you send is kept and goes out later.", ["Try now", retry]];
    case "connecting":
      return ["wait late", connection.error ? `The server is not ready: ${connection.error.message}` : "Connecting…"];
  }
  switch (session.state) {
    case "closed":
      return ["calm", "This session is closed. You can still read it.", ["New session", startNew]];
    case "failed":
      return ["bad", `What runs here has failed${session.reason ? `: ${session.reason}` : ""}.`, ["Try again", retry]];
    case "starting":
    case "passivated":
      return ["wait", "Waking up…"];
    case "passivating":
      return ["wait", "Going to sleep…"];
  }
  if (connection.error) return ["wait", `${connection.text}.`];
  if (session.role === "viewer") return [];
  if (agentState === "paused") return ["calm", "The agent is paused.", ["Go on", () => setAgentState("running")]];
  if (agentState === "awaiting_user_confirmation") {
    const [confirm, reject] = ["user_confirmed", "user_rejected"].map((state) => () => setAgentState(state));
    return ["calm", "The agent asks: may it go on?", ["Reject", reject], ["Confirm", confirm]];
  }
  return [];
}
