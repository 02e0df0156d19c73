/**
 * The browser's side of an ohsessions session, over socket.io-client.
 *
 * One `SessionClient` is one session seen from one page. It owns the connection, the cursor in the event stream and
 * the actions that the server has not stored yet. It knows nothing of how a page looks, and needs none of the console.
 *
 *     import { SessionClient } from "/static/ohsessions/client.js";
 *
 *     const client = new SessionClient({ args: { runtime: "shell" }, storage: localStorage });
 *     client.addEventListener("events", ({ detail }) => detail.events.forEach(show));
 *     client.addEventListener("connection", ({ detail }) => (status.textContent = detail.text));
 *     client.connect();
 *     client.send("run", { command: "ls" });
 *
 * What it promises:
 * - every stored event is dispatched once and in order; a hole in the ids makes it ask again from its cursor;
 * - actions reach the server in the order in which they were given, one at a time, each under its own `client_id`, so
 *   that sending one again after a lost answer makes no second one. Only interrupts overtake;
 * - an action is given up only when the server refuses it for good, never because a connection broke.
 *
 * It does without two features of socket.io-client. The offline buffer is not used, because it sends before the session
 * is attached and forgets with the page. Automatic reconnection is off, because how long to wait is often the
 * server's decision (`draining`, `retry_after`), and sometimes not to try again at all (`revoked`).
 *
 * | event        | detail                                                                                       |
 * |--------------|----------------------------------------------------------------------------------------------|
 * | `connection` | {@link Connection}                                                                           |
 * | `session`    | {@link SessionInfo}: at each attach and at each change of state or title                     |
 * | `reset`      | `{firstEventId}`: drop what is shown, the stream begins anew at that id                       |
 * | `events`     | `{events}`: stored events, in order                                                          |
 * | `action`     | {@link Action}: a new one, or one whose status or `eventId` changed                          |
 * | `agentstate` | `{agentState}`                                                                               |
 * | `notice`     | the notice as it came (`presence`, `delta`, `draining` …)                                    |
 * | `status`     | `{type, id, message}` of a status update                                                     |
 * | `error`      | {@link ServerError} that belongs to no action, such as `start_failed`                        |
 *
 * @module
 */

/** Seconds until an unanswered INIT or action counts as lost. */
const ANSWER_TIMEOUT = 15;
/** Seconds until a server that was told the session while connecting counts as one that does not join by account. */
const ACCOUNT_TIMEOUT = 6;
/** Seconds between attempts: doubled from the first to the last, then spread so that many clients do not come at once. */
const FIRST_DELAY = 0.4;
const LAST_DELAY = 15;
/** A connection that lasted this many seconds was a good one: the next failure starts with the shortest delay. */
const STABLE_AFTER = 10;
/** Minutes after which what an earlier page left unsent is shown to its author instead of being sent by itself. */
const STALE_AFTER = 10;
/** How often an action may be answered 500 before its author is asked. */
const INTERNAL_ERRORS = 3;

/** After these the server does not want us back: a person has to decide. */
const FINAL_FAREWELLS = new Set(["revoked", "logged_out", "operator"]);

/**
 * @typedef {object} ServerError
 * @property {number} error_code  the HTTP-like code of the protocol; 0 when it was made here
 * @property {string} reason      a stable word, such as `invalid_token`
 * @property {string} message     for people
 * @property {number} [retry_after] seconds
 */

/**
 * @typedef {object} Action
 * @property {string} clientId
 * @property {string} type
 * @property {Record<string, unknown>} args
 * @property {"sending"|"stored"|"failed"|"discarded"} status
 * @property {number|null} eventId  the stored event's id. While the status is still `sending` it is a good guess: the
 *   event has arrived and its acknowledgement has not
 * @property {ServerError|null} error  why it failed
 * @property {boolean} interrupt  may overtake
 * @property {number} createdAt  milliseconds since 1970
 * @property {Promise<Action>} settled  resolves when it is stored, failed or discarded; never rejects
 */

/**
 * @typedef {object} Connection
 * @property {"idle"|"connecting"|"connected"|"reconnecting"|"offline"|"refused"} state
 * @property {string} text       the same in words, with the number of actions that wait
 * @property {number} waiting    actions the server has not stored yet
 * @property {number|null} retryIn  seconds until the next attempt
 * @property {ServerError|null} error  why it was refused, or what the last attempt said
 */

/**
 * @typedef {object} SessionInfo
 * @property {string|null} id
 * @property {string|null} token
 * @property {string|null} role   owner, editor or viewer
 * @property {string|null} state  starting, running, passivating, passivated, failed or closed
 * @property {string|null} reason why it is in that state
 * @property {string|null} title  null until the server tells one
 * @property {number} head        the last stored event's id when we attached; -1: none
 */

/** A request the server refused, or one that could not be made. */
export class SessionError extends Error {
  /** @param {ServerError} error */
  constructor(error) {
    super(error.message || error.reason);
    this.name = "SessionError";
    this.code = error.error_code;
    this.reason = error.reason;
    this.retryAfter = error.retry_after ?? null;
  }
}

/** A random id of 128 bits. Not `crypto.randomUUID`, which pages served over plain HTTP do not have. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Delays that double, with a third of chance in them. */
class Backoff {
  #attempts = 0;

  /** @returns {number} seconds */
  next() {
    const delay = Math.min(LAST_DELAY, FIRST_DELAY * 2 ** this.#attempts++);
    return delay * (0.7 + 0.6 * Math.random());
  }

  /** Something worked, although perhaps not for long: no more than a second or two until the next attempt. */
  ease() {
    this.#attempts = Math.min(this.#attempts, 2);
  }

  reset() {
    this.#attempts = 0;
  }
}

/**
 * The actions the server has not stored yet, in the order in which they were given.
 *
 * Each has a storage key of its own, so that two tabs of one session never write over each other. A page that opens the
 * session takes over what it finds there; if another tab sends the same action, the client_id makes them one.
 */
class Outbox {
  /** @type {Action[]} */
  #actions = [];
  #prefix = "";
  #storage;
  #sequence = 0;

  /** @param {Storage|null} storage */
  constructor(storage) {
    this.#storage = storage;
  }

  get actions() {
    return [...this.#actions];
  }

  get waiting() {
    return this.#actions.filter((action) => action.status === "sending").length;
  }

  /** The next action to send, unless one that must come first is on its way. */
  get next() {
    const first = this.#actions.find((action) => action.status === "sending" && !(action.interrupt && action.inFlight));
    return first && !first.inFlight ? first : null;
  }

  find(clientId) {
    return this.#actions.find((action) => action.clientId === clientId);
  }

  /** Begin to keep actions for this session, and take over those that an earlier page left. Returns these. */
  bind(sessionId) {
    const prefix = `ohsessions:pending:${sessionId}:`;
    if (this.#prefix === prefix) return [];
    this.#prefix = prefix;
    const known = new Set(this.#actions.map((action) => action.clientId));
    const found = this.#read().filter((action) => !known.has(action.clientId));
    for (const action of this.#actions) this.keep(action);
    this.#actions = [...found, ...this.#actions];
    return found;
  }

  /** @returns {Action} */
  add(type, args, interrupt) {
    const action = withSettled({
      clientId: randomId(),
      type,
      args,
      status: "sending",
      eventId: null,
      error: null,
      interrupt,
      createdAt: Date.now(),
      sequence: this.#sequence++,
      inFlight: false,
      wasSent: false,
      failures: 0,
    });
    this.#actions.push(action);
    this.keep(action);
    return action;
  }

  /** A second life for a failed action, at the end of the line. It keeps its client_id: perhaps it was stored after all. */
  revive(action) {
    this.remove(action);
    const clientId = action.error?.reason === "client_id_reused" ? randomId() : action.clientId;
    const again = { ...action, clientId, status: "sending", error: null, createdAt: Date.now(), failures: 0 };
    this.#actions.push(withSettled(again));
    this.keep(again);
    return again;
  }

  /** Write an action down. An interrupt is not: it means what runs now, not what runs after the page was reloaded. */
  keep(action) {
    if (!this.#prefix || !this.#storage || action.interrupt) return;
    const { type, args, status, error, createdAt, sequence, wasSent } = action;
    try {
      const text = JSON.stringify({ type, args, status, error, createdAt, sequence, wasSent });
      this.#storage.setItem(this.#prefix + action.clientId, text);
    } catch {
      // A full or forbidden storage costs the protection against a reload, not the action.
    }
  }

  /** The stream begins anew: what was taken for an action's event may be another one's. */
  forgetEventIds() {
    for (const action of this.#actions) action.eventId = null;
  }

  remove(action) {
    this.#actions = this.#actions.filter((other) => other !== action);
    if (!this.#prefix || !this.#storage) return;
    try {
      this.#storage.removeItem(this.#prefix + action.clientId);
    } catch {
      // As above.
    }
  }

  /** Another tab has settled an action that both took over: its key is gone. */
  isSettledElsewhere(action) {
    if (!action.adopted || !this.#storage) return false;
    try {
      return this.#storage.getItem(this.#prefix + action.clientId) === null;
    } catch {
      return false;
    }
  }

  #read() {
    const found = [];
    try {
      for (let index = 0; index < (this.#storage?.length ?? 0); index++) {
        const key = this.#storage.key(index);
        if (!key?.startsWith(this.#prefix)) continue;
        const kept = JSON.parse(this.#storage.getItem(key));
        found.push(
          withSettled({
            ...kept,
            clientId: key.slice(this.#prefix.length),
            eventId: null,
            interrupt: false,
            inFlight: false,
            failures: 0,
            adopted: true,
          }),
        );
      }
    } catch {
      return [];
    }
    found.sort((a, b) => a.createdAt - b.createdAt || a.sequence - b.sequence);
    for (const action of found) {
      if (action.status === "sending" && Date.now() - action.createdAt > STALE_AFTER * 60_000) {
        action.status = "failed";
        action.error = { error_code: 0, reason: "stale", message: "This was written on an earlier visit and was not sent." };
      }
    }
    return found;
  }
}

function withSettled(action) {
  action.settled = new Promise((resolve) => (action.settle = () => resolve(action)));
  return action;
}

export class SessionClient extends EventTarget {
  #url;
  #path;
  #args;
  #role;
  #io;
  #environment;
  #outbox;
  #backoff = new Backoff();
  #attachBackoff = new Backoff();

  #token;
  #cursor;
  /** Of the event at the cursor: with it the server knows whether its log is the one that we have (restored databases). */
  #cursorTimestamp;
  /** @type {SessionInfo} */
  #session;
  #agentState = null;
  /** Names the new session, so that asking for it twice makes one. */
  #birthId = randomId();

  #socket = null;
  #wanted = false;
  #attached = false;
  #wasAttached = false;
  #attachedAt = 0;
  /** Counts INITs and connections: an answer to an older one is ignored. */
  #attempt = 0;
  #holes = 0;
  #farewell = null;
  #comeBackAt = 0;
  #timers = { attach: null, redial: null, drain: null, pump: null };
  /** @type {Connection} */
  #connection = { state: "idle", text: "not connected", waiting: 0, retryIn: null, error: null };

  /**
   * @param {object} [options]
   * @param {string} [options.url]      where the server is; this page's own by default
   * @param {string} [options.path]     Socket.IO's path
   * @param {string|null} [options.token]  access to an existing session
   * @param {string|null} [options.sessionId]  without a token: the session of the logged-in user to join
   * @param {Record<string, unknown>} [options.args]  settings of a new session, `runtime` among them
   * @param {number} [options.cursor]   the last event id the caller still has; -1: none
   * @param {string|null} [options.cursorTimestamp]  the timestamp of that event; a caller that kept events should give it
   * @param {"viewer"|null} [options.role]  ask for less than the token grants
   * @param {Storage|null} [options.storage]  where unsent actions survive a reload, such as localStorage
   * @param {Function} [options.io]     socket.io-client's `io`, if not the one that lies beside this file
   * @param {object} [options.environment]  `window`, or what stands for it in a test
   */
  constructor({
    url = "",
    path = "/socket.io/",
    token = null,
    sessionId = null,
    args = {},
    cursor = -1,
    cursorTimestamp = null,
    role = null,
    storage = null,
    io = null,
    environment = globalThis,
  } = {}) {
    super();
    this.#url = url;
    this.#path = path;
    this.#token = token || null;
    this.#args = args;
    this.#role = role;
    this.#cursor = cursor;
    this.#cursorTimestamp = cursorTimestamp;
    this.#io = io;
    this.#environment = environment;
    this.#session = { id: sessionId, token: this.#token, role: null, state: null, reason: null, title: null, head: -1 };
    this.#outbox = new Outbox(storage);
    if (sessionId) this.#outbox.bind(sessionId);
  }

  /** @returns {SessionInfo} */
  get session() {
    return { ...this.#session };
  }

  /** @returns {Connection} */
  get connection() {
    return { ...this.#connection, waiting: this.#outbox.waiting };
  }

  /** The id of the last event that was dispatched; -1: none. */
  get cursor() {
    return this.#cursor;
  }

  /** The timestamp of that event; null: none. */
  get cursorTimestamp() {
    return this.#cursorTimestamp;
  }

  /** What the agent does: loading, init, running … or null before it said so. */
  get agentState() {
    return this.#agentState;
  }

  /** The actions that are not stored yet, in order. */
  get actions() {
    return this.#outbox.actions;
  }

  // -- what a page asks for ----------------------------------------------------------------------------------------

  /** Connect, attach to the session (or make one), and stay connected until told otherwise. */
  async connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#listenToPage(true);
    for (const action of this.#outbox.actions) this.#tell("action", action);
    this.#show("connecting");
    if (!this.#io) {
      try {
        this.#io = (await import("./socket.io.esm.min.js")).io;
      } catch {
        this.#wanted = false;
        this.#listenToPage(false);
        this.#show("refused", {
          error: { error_code: 0, reason: "not_loaded", message: "A part of this page was not loaded. Reload the page." },
        });
        return;
      }
    }
    if (!this.#wanted) return;
    this.#socket ??= this.#makeSocket();
    this.#dial();
  }

  /** Try again at once: after a refusal, a failed start, or to shorten a wait. */
  reconnect() {
    this.#backoff.reset();
    if (!this.#wanted) return this.connect();
    if (this.#socket?.connected && this.#connection.state === "connected") this.#attach();
    else if (this.#socket) this.#dial();
    return undefined;
  }

  /** Drop the connection and keep everything else; the session does not end. */
  disconnect() {
    this.#wanted = false;
    this.#attached = false;
    this.#listenToPage(false);
    for (const name of Object.keys(this.#timers)) this.#clearTimer(name);
    this.#socket?.disconnect();
    this.#show("idle");
  }

  /**
   * Give an action to the session. It is sent now, or as soon as that is possible.
   *
   * @param {string} type
   * @param {Record<string, unknown>} [args]
   * @param {{interrupt?: boolean}} [options]  an interrupt does not wait for the actions before it
   * @returns {Action}
   */
  send(type, args = {}, { interrupt = false } = {}) {
    const action = this.#outbox.add(type, args, interrupt);
    this.#tell("action", action);
    if (interrupt && this.#attached) this.#transmit(action);
    else this.#pump();
    if (this.#connection.state !== "connected") this.#show(this.#connection.state, this.#connection);
    return action;
  }

  /** Interrupt what runs. */
  stop() {
    return this.send("change_agent_state", { agent_state: "stopped" }, { interrupt: true });
  }

  /** Send a failed action again, after those that wait. */
  retry(clientId) {
    const action = this.#outbox.find(clientId);
    if (action?.status !== "failed") return null;
    const again = this.#outbox.revive(action);
    this.#tell("action", again);
    this.#pump();
    return again;
  }

  /** Forget an action that failed or still waits. One that has been sent may be stored all the same. */
  discard(clientId) {
    const action = this.#outbox.find(clientId);
    if (action) this.#settle(action, "discarded");
  }

  /** Detach from the session without ending it, and disconnect. */
  async leave() {
    if (this.#attached) await this.#ask({ action: "leave" }, 2).catch(() => {});
    this.disconnect();
  }

  /**
   * End the session for good.
   *
   * @throws {SessionError} when it is refused (only owners may) or there is no connection
   */
  async close() {
    await this.#ask({ action: "close" });
    this.#setSession({ state: "closed", reason: "closed by you" });
  }

  // -- the connection ----------------------------------------------------------------------------------------------

  #makeSocket() {
    const socket = this.#io(this.#url || undefined, {
      path: this.#path,
      autoConnect: false,
      reconnection: false,
      forceNew: true,
      transports: ["websocket", "polling"],
      // A proxy that lets no websocket through must not cost the session.
      tryAllTransports: true,
      auth: (give) => give(this.#attachesAtConnect ? this.#connectAuth() : {}),
    });
    socket.on("connect", () => this.#onConnect());
    socket.on("disconnect", (reason) => this.#onDisconnect(reason));
    socket.on("connect_error", (error) => this.#onConnectError(error));
    socket.on("oh_event", (payload) => this.#onPayload(payload));
    socket.on("oh_events", (payloads) => this.#onStored(payloads));
    socket.on("oh_notice", (notice) => this.#onNotice(notice));
    return socket;
  }

  /** A logged-in owner needs no token, and INIT has no other way to name a session: it is named while connecting. */
  get #attachesAtConnect() {
    return !this.#token && Boolean(this.#session.id);
  }

  #connectAuth() {
    const auth = { conversation_id: this.#session.id, ...this.#position, replay: "batch" };
    return this.#role ? { ...auth, role: this.#role } : auth;
  }

  /** Where we are in the event stream, as an attach says it. */
  get #position() {
    const position = { latest_event_id: this.#cursor };
    return this.#cursorTimestamp ? { ...position, latest_event_timestamp: this.#cursorTimestamp } : position;
  }

  #dial() {
    for (const name of ["attach", "redial", "drain"]) this.#clearTimer(name);
    this.#attached = false;
    this.#farewell = null;
    // What is left of an earlier connection reports its end synchronously; that must not schedule another attempt.
    this.#wanted = false;
    this.#socket.disconnect();
    this.#wanted = true;
    this.#show(this.#stateWithoutConnection);
    this.#setTimer("attach", ANSWER_TIMEOUT, () => {
      this.#socket.disconnect();
      this.#redialLater();
    });
    this.#socket.connect();
  }

  get #stateWithoutConnection() {
    if (this.#environment.navigator?.onLine === false) return "offline";
    return this.#wasAttached ? "reconnecting" : "connecting";
  }

  /** @param {number} [delay] seconds */
  #redialLater(delay = this.#backoff.next(), error = null) {
    this.#clearTimer("attach");
    this.#show(this.#stateWithoutConnection, { retryIn: delay, error });
    this.#setTimer("redial", delay, () => this.#dial());
  }

  #onConnect() {
    this.#attachBackoff.reset();
    this.#attach();
  }

  #onDisconnect() {
    const lasted = (Date.now() - this.#attachedAt) / 1000;
    if (this.#attached && lasted > STABLE_AFTER) this.#backoff.reset();
    this.#attached = false;
    this.#attempt++;
    this.#clearTimer("attach");
    this.#clearTimer("drain");
    if (!this.#wanted) return;
    const farewell = this.#farewell;
    this.#farewell = null;
    if (farewell && FINAL_FAREWELLS.has(farewell.reason)) {
      this.#refuse({ error_code: 0, reason: farewell.reason, message: farewell.message || "The server ended the connection." });
      return;
    }
    const asked = (this.#comeBackAt - Date.now()) / 1000;
    this.#comeBackAt = 0;
    this.#redialLater(asked > 0 ? asked : undefined, farewell && { error_code: 0, ...farewell });
  }

  /** The transport failed (try again), or the server answered with a refusal of its own (ask it what to do). */
  #onConnectError(error) {
    if (!this.#wanted) return;
    const data = error?.data;
    if (data && (data.error_code || data.reason)) {
      this.#onAttachRefused({ message: error.message, ...data });
    } else {
      this.#redialLater();
    }
  }

  #refuse(error) {
    this.#wanted = false;
    this.#attached = false;
    this.#listenToPage(false);
    for (const name of Object.keys(this.#timers)) this.#clearTimer(name);
    this.#socket?.disconnect();
    this.#show("refused", { error });
  }

  // -- attaching ---------------------------------------------------------------------------------------------------

  #attach() {
    const attempt = ++this.#attempt;
    this.#attached = false;
    if (this.#attachesAtConnect) {
      const error = { error_code: 0, reason: "no_answer", message: "This server needs the link to the session. Open that link." };
      this.#setTimer("attach", ACCOUNT_TIMEOUT, () => this.#refuse(error));
      return;
    }
    this.#setTimer("attach", ANSWER_TIMEOUT, () => this.#dial());
    const request = { action: "initialize", args: this.#args, ...this.#position, replay: "batch" };
    if (this.#token) request.token = this.#token;
    else request.client_id = this.#birthId;
    if (this.#role) request.role = this.#role;
    this.#socket.emit("oh_action", request, (answer) => {
      if (attempt === this.#attempt && answer?.status === "error") this.#onAttachRefused(answer);
    });
  }

  #onAttachRefused(error) {
    this.#clearTimer("attach");
    const code = error.error_code;
    if (code === 429 || code === 503 || code === 500 || error.reason === "not_attached") {
      const delay = error.retry_after ?? this.#attachBackoff.next();
      if (!this.#socket.connected) {
        this.#redialLater(delay, error);
        return;
      }
      this.#show(this.#stateWithoutConnection, { retryIn: delay, error });
      this.#setTimer("attach", delay, () => this.#attach());
      return;
    }
    this.#refuse(error);
  }

  /** The first answer to INIT: everything before it belongs to an older attach. */
  #onAttached(answer) {
    this.#clearTimer("attach");
    this.#attached = true;
    this.#wasAttached = true;
    this.#attachedAt = Date.now();
    this.#backoff.ease();
    this.#token = answer.token || this.#token;
    if (answer.reset) {
      this.#cursor = (answer.first_event_id ?? 0) - 1;
      this.#cursorTimestamp = null;
      this.#agentState = null;
      this.#outbox.forgetEventIds();
      this.#tell("reset", { firstEventId: this.#cursor + 1 });
    }
    const taken = this.#outbox.bind(answer.session_id);
    this.#setSession({
      id: answer.session_id,
      token: this.#token,
      role: answer.role ?? null,
      state: answer.state ?? null,
      reason: answer.reason ?? null,
      title: answer.title ?? this.#session.title,
      head: answer.head ?? -1,
    });
    for (const action of taken) this.#tell("action", action);
    this.#show("connected");
    this.#pump();
  }

  // -- what arrives ------------------------------------------------------------------------------------------------

  #onPayload(payload) {
    if (payload === null || typeof payload !== "object") return;
    if (Number.isInteger(payload.id)) this.#onStored([payload]);
    else if (payload.error) this.#onError(payload);
    else if (payload.status_update) this.#tell("status", payload);
    else if (payload.status === "ok" && payload.session_id) this.#onAttached(payload);
  }

  /** Errors of actions come as acknowledgements. Here are those of the session, and of servers that know no better. */
  #onError(payload) {
    const error = { ...payload, message: payload.message || String(payload.error) };
    const action = payload.client_id && this.#outbox.find(payload.client_id);
    if (action) this.#onActionRefused(action, error);
    else if (!this.#attached && [401, 403, 404].includes(error.error_code)) this.#onAttachRefused(error);
    else this.#tell("error", error);
  }

  #onStored(payloads) {
    if (!this.#attached || !Array.isArray(payloads)) return;
    const fresh = [];
    for (const event of payloads) {
      if (event.id <= this.#cursor) continue;
      if (event.id !== this.#cursor + 1) {
        this.#onHole();
        break;
      }
      this.#cursor = event.id;
      this.#cursorTimestamp = event.timestamp ?? null;
      fresh.push(event);
    }
    if (!fresh.length) return;
    if (this.#attached) this.#holes = 0;
    for (const event of fresh) this.#recognize(event);
    this.#tell("events", { events: fresh });
    const state = fresh.findLast((event) => event.observation === "agent_state_changed")?.extras?.agent_state;
    if (state && state !== this.#agentState) {
      this.#agentState = state;
      this.#tell("agentstate", { agentState: state });
    }
  }

  /** Ask again from the cursor; the second time in a row not at once, lest two faulty sides drive each other. */
  #onHole() {
    this.#attached = false;
    const delay = this.#holes++ ? Math.min(LAST_DELAY, 2 ** this.#holes) : 0;
    this.#setTimer("attach", delay, () => this.#attach());
  }

  /** The event of an action may come before its acknowledgement: show one of the two, not both. */
  #recognize(event) {
    if (event.source !== "user" || event.action === undefined) return;
    const action = this.#outbox.actions.find(
      (one) => one.wasSent && one.eventId === null && one.type === event.action && isSame(one.args, event.args),
    );
    if (!action) return;
    action.eventId = event.id;
    this.#tell("action", action);
  }

  #onNotice(notice) {
    if (notice === null || typeof notice !== "object") return;
    if (notice.notice === "session_state") {
      const { state = this.#session.state, reason = null, title = this.#session.title } = notice;
      this.#setSession({ state, reason, title });
    } else if (notice.notice === "disconnecting") {
      this.#farewell = { reason: notice.reason ?? "", message: notice.message ?? "" };
    } else if (notice.notice === "draining") {
      this.#onDraining(Number(notice.reconnect_in) || 0);
    }
    this.#tell("notice", notice);
  }

  /** This gateway stops: move to another one at the moment it gave us, so that not all its clients move at once. */
  #onDraining(delay) {
    this.#comeBackAt = Date.now() + delay * 1000;
    this.#setTimer("drain", delay, () => this.#dial());
  }

  // -- actions -----------------------------------------------------------------------------------------------------

  /** Send the next action, if nothing forbids it. One at a time: else a refused one would be overtaken by the next. */
  #pump() {
    if (!this.#attached || this.#timers.pump !== null) return;
    let action = this.#outbox.next;
    while (action && this.#outbox.isSettledElsewhere(action)) {
      this.#settle(action, "stored");
      action = this.#outbox.next;
    }
    if (action) this.#transmit(action);
  }

  #transmit(action) {
    action.inFlight = true;
    action.wasSent = true;
    this.#outbox.keep(action);
    const attempt = this.#attempt;
    const request = { action: action.type, args: action.args, client_id: action.clientId };
    this.#socket.timeout(ANSWER_TIMEOUT * 1000).emit("oh_action", request, (lost, answer) => {
      action.inFlight = false;
      if (action.status !== "sending") return;
      if (lost) {
        if (attempt === this.#attempt) this.#pump();
      } else if (answer?.status === "ok") {
        action.eventId = answer.id ?? action.eventId;
        this.#settle(action, "stored");
        if (this.#connection.error) this.#show("connected");
        this.#pump();
      } else {
        this.#onActionRefused(action, answer ?? { error_code: 500, reason: "internal", message: "The server sent no answer." });
      }
    });
  }

  #onActionRefused(action, error) {
    const code = error.error_code;
    if (error.reason === "not_attached") {
      if (this.#attached) this.#attach();
      return;
    }
    const isPassing = code === 429 || code === 503 || (code === 500 && ++action.failures < INTERNAL_ERRORS);
    if (isPassing) {
      const delay = error.retry_after ?? this.#attachBackoff.next();
      this.#show("connected", { retryIn: delay, error });
      this.#setTimer("pump", delay, () => this.#pump());
      return;
    }
    action.error = error;
    this.#settle(action, "failed");
    this.#pump();
  }

  #settle(action, status) {
    action.status = status;
    if (status === "failed") this.#outbox.keep(action);
    else this.#outbox.remove(action);
    action.settle();
    this.#tell("action", action);
    if (this.#connection.state !== "connected") this.#show(this.#connection.state, this.#connection);
  }

  /** A request that is not an action of the session: not kept, not repeated. */
  #ask(request, timeout = ANSWER_TIMEOUT) {
    return new Promise((resolve, reject) => {
      if (!this.#attached) {
        reject(new SessionError({ error_code: 0, reason: "not_connected", message: "There is no connection to the server. Try again later." }));
        return;
      }
      this.#socket.timeout(timeout * 1000).emit("oh_action", request, (lost, answer) => {
        if (answer?.status === "ok") resolve(answer);
        else reject(new SessionError(answer ?? { error_code: 0, reason: "no_answer", message: "The server sent no answer. Try again later." }));
      });
    });
  }

  // -- telling, waiting --------------------------------------------------------------------------------------------

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #setSession(changes) {
    Object.assign(this.#session, changes);
    this.#tell("session", this.session);
  }

  #show(state, { retryIn = null, error = null } = {}) {
    const waiting = this.#outbox.waiting;
    const text = inWords(state, waiting, error);
    this.#connection = { state, text, waiting, retryIn, error };
    this.#tell("connection", this.connection);
  }

  #setTimer(name, seconds, callback) {
    this.#clearTimer(name);
    this.#timers[name] = setTimeout(() => {
      this.#timers[name] = null;
      callback();
    }, seconds * 1000);
  }

  #clearTimer(name) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = null;
  }

  /** A network that came back, or a page somebody looks at again, is a reason not to wait any longer. */
  #hurry = () => {
    if (this.#environment.document?.visibilityState === "hidden" || this.#timers.redial === null) return;
    // A server that asked for time gets it.
    if (this.#connection.error?.retry_after) return;
    this.#backoff.reset();
    this.#dial();
  };

  #noteOffline = () => {
    if (!this.#socket?.connected) this.#show("offline", this.#connection);
  };

  #listenToPage(wanted) {
    const change = wanted ? "addEventListener" : "removeEventListener";
    this.#environment[change]?.("online", this.#hurry);
    this.#environment[change]?.("offline", this.#noteOffline);
    this.#environment.document?.[change]?.("visibilitychange", this.#hurry);
  }
}

function inWords(state, waiting, error) {
  const actions = waiting ? `, ${waiting} ${waiting === 1 ? "action" : "actions"} waiting` : "";
  switch (state) {
    case "idle":
      return "not connected";
    case "connected":
      if (!error) return "connected";
      return (error.error_code === 429 ? "connected, but the server is busy" : "connected, but not ready") + actions;
    case "refused":
      return error?.message || "refused";
    default:
      return state + actions;
  }
}

/** Whether two JSON values are equal, in whatever order their keys are. */
function isSame(a, b) {
  if (a === b) return true;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => isSame(a[key], b[key]));
}
