/**
 * The console: one page for starting a session, being in it, and finding it again.
 *
 * This module is the only one that knows all others. What a session is doing comes from SessionClient; what it looks
 * like is Timeline's and Header's; which of home, session and dead link is shown is decided here, from the address.
 */

import { SessionClient } from "../ohsessions/client.js";
import { Api } from "./api.js";
import { Composer, actionFor, typedText } from "./composer.js";
import { askTitle, confirmClose, prepareDialogs } from "./dialogs.js";
import { byId, el } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Header } from "./header.js";
import { Menu } from "./menu.js";
import { forgetSession, forgetToken, recallSession, rememberSession } from "./remembered.js";
import { showShare } from "./share.js";
import { Sidebar } from "./sidebar.js";
import { Timeline } from "./timeline.js";
import { toast } from "./toast.js";
import { asJson, asText, download, fileName } from "./transcript.js";

const config = JSON.parse(byId("console-config").textContent);
const RUNTIME_WORDS = {
  shell: ["Shell", "A real command line with its own folder. It remembers where you were."],
  echo: ["Echo", "Gives back what you send. Good for a first look."],
};
const LONGEST_TITLE = 60;

const api = new Api(config.api);
const header = new Header();
const drawer = new Drawer();
const sidebar = new Sidebar({
  list: byId("session-list"),
  note: byId("session-none"),
  api,
  isAuthenticated: config.user.authenticated,
});
const composer = new Composer({
  form: byId("composer"),
  field: byId("composer-field"),
  button: byId("send"),
  hint: byId("composer-hint"),
});
const timeline = new Timeline({
  scroller: byId("scroller"),
  list: byId("timeline"),
  pendingList: byId("pending"),
  jump: byId("jump"),
});

/** The session that is open: its client, its events, and what the page found out about it. Null at home. */
let open = null;

// -- views -----------------------------------------------------------------------------------------------------------

function show(view) {
  byId("stage").dataset.view = view;
  for (const name of ["home", "dead", "session"]) byId(name).hidden = name !== view;
  byId("composer").hidden = view === "dead";
  byId("bar-tools").hidden = view !== "session";
  byId("bar-line").hidden = view !== "session";
}

function leaveCurrent() {
  open?.client.disconnect();
  open = null;
  timeline.clear();
  composer.forgetAll();
  header.clear();
  drawer.close();
}

function showHome() {
  leaveCurrent();
  show("home");
  header.setTitle("New session");
  document.title = "ohsessions";
  composer.setRuntime(chosenRuntime());
  composer.setReason(null);
  sidebar.setCurrent(null);
  composer.focus();
}

function chosenRuntime() {
  return document.querySelector("#runtimes input:checked")?.value ?? config.default_runtime;
}

const DEAD = {
  invalid_token: ["This link no longer works", "It may have expired, or its owner may have revoked it. Ask for a new one."],
  unknown_session: ["There is no such session", "The address may be incomplete, or the session was removed."],
  logged_out: ["You are signed out", "Sign in again to continue. Nothing that you sent is lost."],
  login_required: ["Please sign in", "On this site you need to sign in before you start or join a session."],
  no_key: ["This address is not complete", "A link to a session ends with a long key after a # sign. Copy the whole link, or sign in if the session is yours."],
  forbidden: ["You may not join this session", "Its owner can give you a link that lets you in."],
  other: ["This session could not be opened", "The server refused it. Trying again does not help."],
};

function showDead(reason, { id = null, detail = "" } = {}) {
  leaveCurrent();
  show("dead");
  const [title, text] = DEAD[reason] ?? DEAD.other;
  header.setTitle("Session");
  document.title = `${title} · ohsessions`;
  byId("dead-title").textContent = title;
  byId("dead-text").textContent = text;
  byId("dead-detail").textContent = detail;
  const login = byId("dead-login");
  login.hidden = (config.user.authenticated && reason !== "logged_out") || !config.login_url;
  login.href = `${config.login_url}?next=${encodeURIComponent(location.pathname)}`;
  const forget = byId("dead-forget");
  forget.hidden = !id || !recallSession(id);
  forget.onclick = () => {
    forgetSession(id);
    goHome();
  };
  sidebar.setCurrent(id);
}

// -- addresses -------------------------------------------------------------------------------------------------------

function route() {
  const id = location.pathname.match(/\/s\/([0-9a-fA-F-]{36})\/?$/)?.[1]?.toLowerCase() ?? null;
  const token = decodeURIComponent(location.hash.slice(1)) || null;
  if (!id) {
    if (open || byId("stage").dataset.view !== "home" || byId("home").hidden) showHome();
    return;
  }
  if (open?.client.session.id === id && (!token || token === open.client.session.token)) return;
  const known = recallSession(id);
  // What may let us in, best first; an account needs no token for its own sessions.
  const keys = [...new Set([token, known?.token].filter(Boolean)), ...(config.user.authenticated ? [null] : [])];
  if (!keys.length) showDead("no_key", { id });
  else openSession({ id, keys, runtime: known?.runtime ?? null, title: known?.title ?? "" });
}

function addressOf({ id, token }) {
  return `/s/${id}${token ? `#${token}` : ""}`;
}

function goTo(session) {
  history.pushState(null, "", addressOf(session));
  route();
}

function goHome() {
  history.pushState(null, "", "/");
  showHome();
}

// -- a session -------------------------------------------------------------------------------------------------------

/** @param {boolean} isBorrowed  the key was made for this visit: it is neither shown in the address nor remembered */
function openSession({ id = null, keys = [], runtime = null, title = "", isBorrowed = false }) {
  leaveCurrent();
  const [token = null, ...otherKeys] = keys;
  const client = new SessionClient({
    path: config.path,
    token,
    sessionId: id,
    args: runtime && !id ? { runtime } : {},
    storage: usableStorage(),
  });
  const session = { client, events: [], runtime, title, otherKeys, isBorrowed, hasOwnTitle: false, isNew: !id };
  open = session;
  show("session");
  header.setTitle(title || (id ? "Session" : "New session"));
  composer.setRuntime(runtime ?? "");
  // Late news of a session that is not shown any more must not change the page.
  const on = (name, handler) => client.addEventListener(name, ({ detail }) => open === session && handler(detail));
  on("connection", onConnection);
  on("session", onSession);
  on("reset", onReset);
  on("events", ({ events }) => onEvents(events));
  on("action", showAction);
  on("agentstate", updateState);
  on("notice", onNotice);
  on("status", ({ message, type }) => toast(message, type === "error"));
  on("error", ({ message, reason }) => toast(message || reason, true));
  sidebar.setCurrent(id);
  updateState();
  client.connect();
  if (id) learnAbout(session);
  composer.focus();
  return session;
}

function usableStorage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/** The stream does not say which runtime it is and what the session is called; the API does. */
async function learnAbout(session) {
  const { id, token } = session.client.session;
  try {
    const { title, runtime } = await api.get(id, token);
    if (open !== session) return;
    session.runtime = runtime;
    composer.setRuntime(runtime);
    if (title) setTitle(title, true);
    keep();
  } catch {
    // The events will tell the runtime, and a title is not needed to work.
  }
}

function onConnection(connection) {
  const { error } = connection;
  if (connection.state === "refused" && error?.error_code >= 400) {
    const { id, token } = open.client.session;
    const reason = error.reason in DEAD ? error.reason : { 401: "invalid_token", 403: "forbidden", 404: "unknown_session" }[error.error_code];
    if (reason === "invalid_token" && id) {
      forgetToken(id, token);
      if (open.otherKeys.length) {
        openSession({ id, keys: open.otherKeys, runtime: open.runtime, title: open.title });
        return;
      }
    }
    showDead(reason, { id, detail: error.message });
    return;
  }
  if (connection.state === "refused" && error?.reason === "logged_out") {
    showDead("logged_out", { id: open.client.session.id, detail: error.message });
    return;
  }
  if (connection.state === "refused" && error?.reason === "no_answer") {
    borrowKey(open);
    return;
  }
  header.showConnection(connection);
  updateState();
  for (const action of open.client.actions) showAction(action);
}

/** A server that does not join by account while connecting lets an owner make a link, and that will do. */
async function borrowKey(session) {
  const { id } = session.client.session;
  try {
    const { token } = await api.share(id, null, { role: "editor", label: "this console" });
    if (open === session) openSession({ id, keys: [token], runtime: session.runtime, title: session.title, isBorrowed: true });
  } catch (error) {
    if (open === session) showDead(error.status === 404 ? "unknown_session" : "no_key", { id, detail: error.message });
  }
}

function onSession({ id, token, title, state }) {
  const address = addressOf({ id, token: open.isBorrowed ? null : token });
  if (open.isNew && id) {
    open.isNew = false;
    history.pushState(null, "", address);
    sidebar.setCurrent(id);
  } else if (id && location.pathname + location.hash !== address) {
    history.replaceState(null, "", address);
  }
  if (title) setTitle(title, true);
  if (state === "closed" || state === "failed" || state === "passivated") timeline.abandonRuns();
  keep();
  updateState();
  sidebar.refresh();
}

/** Remember the session on this device. */
function keep() {
  const { id, token, role } = open.client.session;
  const key = open.isBorrowed ? { token: "", role: "" } : { token: token ?? "", role };
  if (id && role) rememberSession({ id, ...key, title: open.title, runtime: open.runtime });
}

function setTitle(title, isOwn) {
  if (open.hasOwnTitle && !isOwn) return;
  open.hasOwnTitle ||= isOwn;
  open.title = title;
  header.setTitle(title);
  document.title = `${title} · ohsessions`;
}

function onReset({ firstEventId }) {
  open.events = [];
  timeline.clear();
  if (firstEventId > 0) timeline.addLine("Earlier events are no longer kept");
}

function onEvents(events) {
  for (const event of events) {
    open.events.push(event);
    const text = typedText(event);
    if (text && event.source === "user") {
      composer.remember(text);
      if (!open.title) {
        nameAfter(text, event.id);
      }
    }
    if (!open.runtime && event.observation === "run") adoptRuntime("shell");
    if (!open.runtime && event.observation === "echo") adoptRuntime("echo");
  }
  timeline.add(events);
}

/** A session without a title is called what was first asked in it: here, and for a new one in the owner's lists too. */
function nameAfter(text, eventId) {
  const { id, token, role, head } = open.client.session;
  setTitle(text.split("\n", 1)[0].slice(0, LONGEST_TITLE), false);
  keep();
  sidebar.draw();
  if (role === "owner" && eventId > head) api.rename(id, token, open.title).catch(() => {});
}

function adoptRuntime(runtime) {
  open.runtime = runtime;
  composer.setRuntime(runtime);
}

function showAction(action) {
  const { client } = open;
  timeline.showPending(action, client.connection.state === "connected", {
    onRetry: () => client.retry(action.clientId),
    onDiscard: () => client.discard(action.clientId),
  });
}

function onNotice(notice) {
  if (notice.notice === "presence") header.showPresence(notice);
  else if (notice.notice === "delta") timeline.addDraft(notice.cause, notice.content ?? "");
  else if (notice.notice === "draining") toast("The server restarts. This page reconnects by itself.");
}

function updateState() {
  const { client } = open;
  const session = client.session;
  const facts = { session, agentState: client.agentState, connection: client.connection, isOwn: open.isBorrowed };
  composer.setReason(header.showState(facts));
  // What can only be read needs no field; the banner says why.
  byId("composer").hidden = session.state === "closed";
  header.showBanner(facts, {
    retry: () => client.reconnect(),
    startNew: goHome,
    setAgentState: (state) => client.send("change_agent_state", { agent_state: state }, { interrupt: true }),
  });
}

// -- what people do --------------------------------------------------------------------------------------------------

composer.addEventListener("submit", ({ detail: { text } }) => {
  const session = open ?? openSession({ runtime: chosenRuntime() });
  session.client.send(...actionFor(session.runtime, text));
  timeline.jumpToEnd();
});
composer.addEventListener("interrupt", () => !byId("stop").disabled && open?.client.stop());
byId("stop").addEventListener("click", () => {
  open?.client.stop();
  composer.focus();
});
byId("start").addEventListener("click", () => openSession({ runtime: chosenRuntime() }));
byId("new-session").addEventListener("click", goHome);
byId("dead-new").addEventListener("click", goHome);
byId("brand").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  goHome();
});
sidebar.addEventListener("open", ({ detail }) => {
  drawer.close();
  goTo(detail);
});

byId("share").addEventListener("click", () => {
  const { id, token, role } = open.client.session;
  if (!id) return;
  const key = open.isBorrowed ? null : token;
  showShare({
    role,
    ownLink: role === "owner" || open.isBorrowed ? null : new URL(addressOf({ id, token }), location.href).href,
    makeLink: async (link) => new URL((await api.share(id, key, link)).url, location.href).href,
    listLinks: () => api.links(id, key),
    revokeLink: (link) => api.revokeLink(id, key, link),
    revokeAll: () => revokeAll(id, key),
  });
});

/** Our own token and connection end with all the others: go on with the new one. */
async function revokeAll(id, key) {
  const session = open;
  const token = await api.revokeLinks(id, key);
  if (open && open !== session) return;
  const { runtime, title, isBorrowed } = session;
  forgetToken(id, key);
  openSession({ id, keys: [token, ...(config.user.authenticated ? [null] : [])], runtime, title, isBorrowed });
  toast("All links to this session are revoked.");
}

byId("rename").addEventListener("click", async () => {
  const session = open;
  const { id, token } = session.client.session;
  const title = await askTitle(session.title);
  if (!title || title === session.title || !id) return;
  try {
    await api.rename(id, token, title);
    if (open !== session) return;
    setTitle(title, true);
    keep();
    sidebar.refresh();
  } catch (error) {
    toast(`It could not be renamed: ${error.message}`, true);
  }
});

byId("save-text").addEventListener("click", () => save(asText, "text/plain;charset=utf-8", "txt"));
byId("save-json").addEventListener("click", () => save(asJson, "application/json", "json"));

function save(format, type, ending) {
  const about = { id: open.client.session.id, title: open.title, runtime: open.runtime };
  download(fileName(about, ending), type, format(about, open.events));
}

byId("leave").addEventListener("click", async () => {
  const { client } = open;
  await client.leave();
  goHome();
});

byId("close").addEventListener("click", async () => {
  const { client } = open;
  if (!(await confirmClose())) return;
  try {
    await client.close();
  } catch (error) {
    toast(`It could not be closed: ${error.message}`, true);
  }
});

timeline.addEventListener("finished", ({ detail: event }) => {
  // Only what happens now is news; a replay would read the whole history aloud.
  if (!open || event.id <= open.client.session.head) return;
  const code = event.extras?.exit_code;
  if (document.hidden) document.title = `✓ ${open.title} · ohsessions`;
  byId("announcer").textContent = `${event.extras?.command ?? "Command"}: ${code === 0 ? "done" : `exit code ${code}`}`;
});
timeline.addEventListener("drawn", ({ detail: { left } }) => {
  byId("timeline").setAttribute("aria-busy", String(left > 0));
});

// -- the start -------------------------------------------------------------------------------------------------------

function drawRuntimes() {
  const choices = config.runtimes.map((name) => {
    const [title, words] = RUNTIME_WORDS[name] ?? [name, ""];
    const input = el("input", { type: "radio", name: "runtime", value: name, checked: name === config.default_runtime });
    return el("label", { class: "choice" }, input, el("span", {}, el("b", { text: title }), words && ` ${words}`));
  });
  byId("runtimes").append(...choices);
  byId("runtimes").hidden = choices.length < 2;
  byId("runtimes").addEventListener("change", () => composer.setRuntime(chosenRuntime()));
}

function drawUser() {
  const { authenticated, name } = config.user;
  const next = encodeURIComponent(location.pathname);
  const parts = authenticated
    ? [el("span", { class: "user-name", text: name, title: `Signed in as ${name}` })]
    : [config.login_url && el("a", { href: `${config.login_url}?next=${next}`, text: "Sign in" })];
  if (authenticated && config.admin_url) parts.push(el("a", { href: config.admin_url, text: "Admin" }));
  byId("user").append(...parts.filter(Boolean));
}

drawRuntimes();
drawUser();
prepareDialogs();
new Menu(byId("menu-button"), byId("menu"));
addEventListener("popstate", route);
addEventListener("focus", () => {
  sidebar.refresh();
  document.title = document.title.replace(/^✓ /, "");
});
sidebar.refresh();
byId("home").hidden = true;
route();
