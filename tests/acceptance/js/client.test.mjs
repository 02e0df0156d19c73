/**
 * The browser client against a server made of a few lines: what it keeps, in which order it sends, when it asks again.
 * Time is node's mocked clock, so nothing here waits.
 */
import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { SessionClient, SessionError } from "../../../ohsessions/static/ohsessions/client.js";

const SESSION = "11111111-2222-3333-4444-555555555555";

/** Stands for socket.io-client: records what is emitted, and lets a test play the server. */
class FakeSocket {
  connected = false;
  emitted = [];
  refusals = [];
  #handlers = new Map();
  #acks = new Set();

  constructor(options) {
    this.options = options;
  }

  on(name, handler) {
    this.#handlers.set(name, handler);
  }

  connect() {
    this.options.auth((auth) => (this.auth = auth));
    queueMicrotask(() => {
      const refusal = this.refusals.shift();
      if (refusal) return this.#handlers.get("connect_error")(refusal);
      this.connected = true;
      return this.#handlers.get("connect")();
    });
  }

  disconnect() {
    this.drop("io client disconnect");
  }

  emit(name, payload, ack) {
    assert.ok(this.connected, "emitted without a connection");
    this.emitted.push({ name, payload: structuredClone(payload), ack });
  }

  timeout(milliseconds) {
    return {
      emit: (name, payload, ack) => {
        const finish = (...answer) => {
          clearTimeout(timer);
          this.#acks.delete(finish);
          ack(...answer);
        };
        const timer = setTimeout(() => finish(new Error("timeout")), milliseconds);
        this.#acks.add(finish);
        this.emit(name, payload, (answer) => this.#acks.has(finish) && finish(null, answer));
      },
    };
  }

  // what the server does

  receive(name, payload) {
    this.#handlers.get(name)(payload);
  }

  drop(reason = "transport close") {
    if (!this.connected) return;
    this.connected = false;
    this.#handlers.get("disconnect")(reason);
    for (const finish of [...this.#acks]) finish(new Error("socket has been disconnected"));
  }

  get inits() {
    return this.emitted.map((one) => one.payload).filter((payload) => payload.action === "initialize");
  }

  get actions() {
    return this.emitted.filter((one) => one.payload.action !== "initialize");
  }

  /** Answer the latest INIT. */
  accept(extra = {}) {
    const answer = { token: "t1", status: "ok", session_id: SESSION, state: "running", role: "owner", head: -1, reset: false };
    this.receive("oh_event", { ...answer, ...extra });
  }
}

class MemoryStorage {
  #values = new Map();
  get length() {
    return this.#values.size;
  }
  key(index) {
    return [...this.#values.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#values.get(key) ?? null;
  }
  setItem(key, value) {
    this.#values.set(key, String(value));
  }
  removeItem(key) {
    this.#values.delete(key);
  }
}

function makeClient({ refusals = [], ...options } = {}) {
  const environment = new EventTarget();
  environment.navigator = { onLine: true };
  let socket;
  const io = (_url, ioOptions) => {
    socket = new FakeSocket(ioOptions);
    socket.refusals.push(...refusals);
    return socket;
  };
  const client = new SessionClient({ io, environment, ...options });
  const seen = { events: [], connection: [], action: [], session: [], reset: [], error: [] };
  client.addEventListener("events", ({ detail }) => seen.events.push(...detail.events.map((event) => event.id)));
  client.addEventListener("connection", ({ detail }) => seen.connection.push(detail.text));
  client.addEventListener("action", ({ detail }) => seen.action.push([detail.args.content, detail.status, detail.eventId]));
  client.addEventListener("session", ({ detail }) => seen.session.push(detail));
  client.addEventListener("reset", ({ detail }) => seen.reset.push(detail.firstEventId));
  client.addEventListener("error", ({ detail }) => seen.error.push(detail.reason));
  return {
    client,
    environment,
    seen,
    get socket() {
      return socket;
    },
  };
}

async function attached(options = {}, answer = {}) {
  const world = makeClient(options);
  await world.client.connect();
  await settle();
  world.socket.accept(answer);
  return world;
}

/** Let microtasks run. */
async function settle() {
  for (let round = 0; round < 10; round++) await Promise.resolve();
}

async function pass(seconds) {
  mock.timers.tick(seconds * 1000);
  await settle();
}

const stored = (id, extra = {}) => ({ id, timestamp: "", source: "agent", message: "", observation: "run", content: "", extras: {}, ...extra });

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
});

test("a new session is asked for with settings, a cursor and a random client_id, and again with the same one", async () => {
  const world = makeClient({ args: { runtime: "shell" } });
  await world.client.connect();
  await settle();
  world.socket.drop();
  await pass(20);
  const [first, second] = world.socket.inits;
  assert.deepEqual(first.args, { runtime: "shell" });
  assert.equal(first.latest_event_id, -1);
  assert.equal(first.replay, "batch");
  assert.equal(first.token, undefined);
  assert.match(first.client_id, /^[0-9a-f]{32}$/);
  assert.equal(second.client_id, first.client_id);
});

test("after a reconnect INIT carries the token and the cursor", async () => {
  const { client, socket, seen } = await attached();
  socket.receive("oh_events", [stored(0), stored(1)]);
  socket.receive("oh_event", stored(2));
  socket.drop();
  await pass(20);
  assert.equal(socket.inits.length, 2);
  assert.equal(socket.inits[1].token, "t1");
  assert.equal(socket.inits[1].latest_event_id, 2);
  assert.equal(socket.inits[1].client_id, undefined);
  socket.accept({ head: 3 });
  socket.receive("oh_events", [stored(1), stored(2), stored(3)]);
  assert.deepEqual(seen.events, [0, 1, 2, 3]);
  assert.equal(client.cursor, 3);
});

test("a hole in the ids is not shown: the client asks again from its cursor", async () => {
  const { socket, seen } = await attached();
  socket.receive("oh_event", stored(0));
  socket.receive("oh_event", stored(2));
  socket.receive("oh_event", stored(3));
  await pass(0);
  assert.equal(socket.inits.at(-1).latest_event_id, 0);
  assert.deepEqual(seen.events, [0]);
  socket.accept({ head: 3 });
  socket.receive("oh_events", [stored(1), stored(2), stored(3)]);
  assert.deepEqual(seen.events, [0, 1, 2, 3]);
});

test("a reset starts anew at the first event that is kept", async () => {
  const { socket, seen } = await attached({ token: "t1", cursor: 900 }, { reset: true, first_event_id: 40, head: 41 });
  socket.receive("oh_events", [stored(40), stored(41)]);
  assert.deepEqual(seen.reset, [40]);
  assert.deepEqual(seen.events, [40, 41]);
});

test("an attach says the timestamp of the last event, until a reset drops what is known of the log", async () => {
  const { socket, seen, client } = await attached({ token: "t1", cursor: 2, cursorTimestamp: "then" });
  assert.equal(socket.inits[0].latest_event_timestamp, "then");
  socket.receive("oh_event", { ...stored(3), timestamp: "now" });
  client.send("message", { content: "a" });
  socket.receive("oh_event", { ...stored(4), timestamp: "soon", action: "message", args: { content: "a" }, source: "user" });
  assert.equal(client.actions[0].eventId, 4);
  socket.receive("oh_event", stored(9)); // a hole: it asks again
  await pass(0);
  assert.deepEqual([socket.inits[1].latest_event_id, socket.inits[1].latest_event_timestamp], [4, "soon"]);
  socket.accept({ reset: true, first_event_id: 0, head: 4 });
  assert.deepEqual([seen.reset, client.cursor, client.cursorTimestamp], [[0], -1, null]);
  assert.equal(client.actions[0].eventId, null);
});

test("actions go out one at a time, in order, after the attach", async () => {
  const world = makeClient();
  const { client } = world;
  client.send("message", { content: "a" });
  client.send("message", { content: "b" });
  await client.connect();
  await settle();
  const { socket } = world;
  assert.equal(socket.actions.length, 0);
  socket.accept();
  assert.deepEqual(socket.actions.map((one) => one.payload.args.content), ["a"]);
  socket.actions[0].ack({ status: "ok", id: 0 });
  assert.deepEqual(socket.actions.map((one) => one.payload.args.content), ["a", "b"]);
  const ids = socket.actions.map((one) => one.payload.client_id);
  assert.equal(new Set(ids).size, 2);
  assert.ok(ids.every((id) => id.length <= 64));
});

test("what was not acknowledged is sent again after a reconnect, in order and under the same client_id", async () => {
  const { client, socket, seen } = await attached();
  const first = client.send("message", { content: "a" });
  client.send("message", { content: "b" });
  socket.drop();
  assert.equal(client.connection.text, "reconnecting, 2 actions waiting");
  await pass(20);
  socket.accept();
  socket.actions[1].ack({ status: "ok", id: 5 });
  await settle();
  assert.deepEqual(socket.actions.map((one) => one.payload.args.content), ["a", "a", "b"]);
  assert.equal(socket.actions[1].payload.client_id, socket.actions[0].payload.client_id);
  assert.equal((await first.settled).eventId, 5);
  assert.deepEqual(seen.action.at(-1), ["a", "stored", 5]);
});

test("an acknowledgement that never comes is answered by sending again", async () => {
  const { client, socket } = await attached();
  client.send("message", { content: "a" });
  await pass(16);
  assert.equal(socket.actions.length, 2);
  assert.equal(socket.actions[1].payload.client_id, socket.actions[0].payload.client_id);
});

test("an event that comes before its acknowledgement is recognized as the pending action", async () => {
  const { client, socket, seen } = await attached();
  client.send("message", { content: "a", list: [1, { x: null }] });
  socket.receive("oh_event", {
    id: 0, timestamp: "", source: "user", message: "a", action: "message", args: { list: [1, { x: null }], content: "a" },
  });
  assert.deepEqual(seen.action, [["a", "sending", null], ["a", "sending", 0]]);
  socket.actions[0].ack({ status: "ok", id: 0 });
  assert.deepEqual(seen.action.at(-1), ["a", "stored", 0]);
  assert.deepEqual(client.actions, []);
});

test("somebody else's equal action is not taken for one that was not sent yet", async () => {
  const { client, socket } = await attached();
  client.send("message", { content: "a" });
  const waiting = client.send("message", { content: "b" });
  socket.receive("oh_event", { id: 0, source: "user", action: "message", args: { content: "b" } });
  assert.equal(waiting.eventId, null);
});

test("an interrupt overtakes what waits for an acknowledgement", async () => {
  const { client, socket } = await attached();
  client.send("run", { command: "sleep 100" });
  client.send("run", { command: "ls" });
  client.stop();
  assert.deepEqual(socket.actions.map((one) => one.payload.args), [{ command: "sleep 100" }, { agent_state: "stopped" }]);
  socket.actions[0].ack({ status: "ok", id: 0 });
  assert.deepEqual(socket.actions.at(-1).payload.args, { command: "ls" });
});

test("429 waits as long as the server says, and nothing overtakes", async () => {
  const { client, socket } = await attached();
  client.send("message", { content: "a" });
  client.send("message", { content: "b" });
  socket.actions[0].ack({ status: "error", error_code: 429, reason: "rate", message: "", retry_after: 7 });
  await pass(6.5);
  assert.equal(socket.actions.length, 1);
  assert.equal(client.connection.text, "connected, but the server is busy, 2 actions waiting");
  await pass(1);
  assert.deepEqual(socket.actions.map((one) => one.payload.args.content), ["a", "a"]);
  socket.actions[1].ack({ status: "ok", id: 0 });
  assert.equal(client.connection.text, "connected");
});

test("503 is tried again", async () => {
  const { client, socket } = await attached();
  client.send("message", { content: "a" });
  socket.actions[0].ack({ status: "error", error_code: 503, reason: "unavailable", message: "" });
  await pass(5);
  assert.equal(socket.actions.length, 2);
});

test("a refusal for good fails the action with its error and lets the next one go", async () => {
  const { client, socket } = await attached();
  const refused = client.send("message", { content: "a" });
  client.send("message", { content: "b" });
  socket.actions[0].ack({ status: "error", error_code: 403, reason: "role", message: "Viewers only watch." });
  assert.equal((await refused.settled).status, "failed");
  assert.equal(refused.error.reason, "role");
  assert.equal(socket.actions.at(-1).payload.args.content, "b");
  client.retry(refused.clientId);
  socket.actions.at(-1).ack({ status: "ok", id: 0 });
  assert.equal(socket.actions.at(-1).payload.args.content, "a");
  assert.equal(socket.actions.at(-1).payload.client_id, refused.clientId);
});

test("pending actions survive the page, in order, and are sent by the next one", async () => {
  const storage = new MemoryStorage();
  const before = await attached({ storage });
  before.client.send("message", { content: "a" });
  before.client.send("message", { content: "b" });
  before.client.disconnect();

  const after = await attached({ storage, sessionId: SESSION, token: "t1" });
  assert.deepEqual(after.client.actions.map((action) => action.args.content), ["a", "b"]);
  after.socket.actions[0].ack({ status: "ok", id: 0 });
  after.socket.actions[1].ack({ status: "ok", id: 1 });
  assert.deepEqual(
    after.socket.actions.map((one) => one.payload.client_id).slice(0, 1),
    before.socket.actions.map((one) => one.payload.client_id),
  );
  assert.equal(storage.length, 0);
});

test("what an earlier visit left unsent long ago waits for its author", async () => {
  const storage = new MemoryStorage();
  const before = await attached({ storage });
  before.client.send("message", { content: "rm -rf build" });
  before.client.disconnect();
  await pass(3600);
  const after = await attached({ storage, sessionId: SESSION, token: "t1" });
  assert.equal(after.socket.actions.length, 0);
  assert.equal(after.client.actions[0].error.reason, "stale");
  after.client.discard(after.client.actions[0].clientId);
  assert.equal(storage.length, 0);
});

test("an action that another tab has settled is not sent again", async () => {
  const storage = new MemoryStorage();
  const one = await attached({ storage });
  one.client.send("message", { content: "a" });
  const two = makeClient({ storage, sessionId: SESSION, token: "t1" });
  await two.client.connect();
  await settle();
  one.socket.actions[0].ack({ status: "ok", id: 0 });
  two.socket.accept();
  assert.equal(two.socket.actions.length, 0);
  assert.deepEqual(two.client.actions, []);
});

test("an invalid token is told and not tried again", async () => {
  const world = makeClient({ token: "bad" });
  await world.client.connect();
  await settle();
  world.socket.emitted[0].ack({ status: "error", error_code: 401, reason: "invalid_token", message: "The link is not valid." });
  await pass(600);
  assert.equal(world.socket.inits.length, 1);
  assert.equal(world.client.connection.state, "refused");
  assert.equal(world.client.connection.error.reason, "invalid_token");
});

test("a logged-in owner without a token names the session while connecting", async () => {
  const world = makeClient({ sessionId: SESSION });
  await world.client.connect();
  await settle();
  assert.deepEqual(world.socket.auth, { conversation_id: SESSION, latest_event_id: -1, replay: "batch" });
  assert.equal(world.socket.inits.length, 0);
  world.socket.accept();
  world.socket.drop();
  await pass(20);
  assert.equal(world.socket.inits[0].token, "t1");
});

test("a server that does not join by account is not waited for", async () => {
  const world = makeClient({ sessionId: SESSION });
  await world.client.connect();
  await settle();
  await pass(7);
  assert.equal(world.client.connection.state, "refused");
  assert.equal(world.client.connection.error.reason, "no_answer");
});

test("a refused connect is told with its reason", async () => {
  const refusal = Object.assign(new Error("No such session."), { data: { error_code: 404, reason: "unknown_session" } });
  const world = makeClient({ sessionId: SESSION, refusals: [refusal] });
  await world.client.connect();
  await settle();
  assert.equal(world.client.connection.state, "refused");
  assert.equal(world.client.connection.text, "No such session.");
});

test("a transport that fails is tried again, with the words of a first connection", async () => {
  const world = makeClient({ refusals: [new Error("websocket error")] });
  await world.client.connect();
  await settle();
  assert.equal(world.socket.inits.length, 0);
  assert.equal(world.client.connection.text, "connecting");
  await pass(5);
  assert.equal(world.socket.inits.length, 1);
});

for (const reason of ["revoked", "logged_out", "operator"]) {
  test(`after "${reason}" only a person reconnects`, async () => {
    const { client, socket } = await attached();
    socket.receive("oh_notice", { notice: "disconnecting", reason, message: "Ended." });
    socket.drop("io server disconnect");
    await pass(600);
    assert.equal(socket.inits.length, 1);
    assert.equal(client.connection.text, "Ended.");
    client.reconnect();
    await settle();
    assert.equal(socket.inits.length, 2);
  });
}

test("after any other farewell the client comes back by itself", async () => {
  const { socket } = await attached();
  socket.receive("oh_notice", { notice: "disconnecting", reason: "slow", message: "" });
  socket.drop("io server disconnect");
  await pass(20);
  assert.equal(socket.inits.length, 2);
});

test("a draining server is left at the time it names", async () => {
  const { socket } = await attached();
  socket.receive("oh_notice", { notice: "draining", reconnect_in: 2.5 });
  await pass(2);
  assert.equal(socket.inits.length, 1);
  await pass(1);
  assert.equal(socket.inits.length, 2);
});

test("a draining server that closes early is not called before the time it named", async () => {
  const { socket } = await attached();
  socket.receive("oh_notice", { notice: "draining", reconnect_in: 5 });
  socket.drop("io server disconnect");
  await pass(4);
  assert.equal(socket.inits.length, 1);
  await pass(1.5);
  assert.equal(socket.inits.length, 2);
});

test("an INIT without an answer is given up, and sent on a new connection", async () => {
  const world = makeClient();
  await world.client.connect();
  await settle();
  await pass(16);
  assert.equal(world.socket.inits.length, 2);
});

test("a network that comes back is used at once", async () => {
  const { client, socket, environment } = await attached();
  environment.navigator.onLine = false;
  socket.drop();
  assert.equal(client.connection.text, "offline");
  environment.navigator.onLine = true;
  environment.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(socket.inits.length, 2);
});

test("a change of state or title is told", async () => {
  const { socket, seen } = await attached();
  socket.receive("oh_notice", { notice: "session_state", state: "passivating", reason: "idle", title: "Notes" });
  assert.deepEqual(
    [seen.session.at(-1).state, seen.session.at(-1).reason, seen.session.at(-1).title],
    ["passivating", "idle", "Notes"],
  );
});

test("an error of the session is told and ends nothing", async () => {
  const { client, socket, seen } = await attached();
  socket.receive("oh_event", { error: true, error_code: 503, reason: "start_failed", message: "It could not start." });
  assert.deepEqual(seen.error, ["start_failed"]);
  assert.equal(client.connection.state, "connected");
});

test("close resolves when the server agrees and rejects with its error when not", async () => {
  const { client, socket } = await attached();
  const refused = client.close();
  socket.actions[0].ack({ status: "error", error_code: 403, reason: "role", message: "Only the owner." });
  await assert.rejects(refused, (error) => error instanceof SessionError && error.code === 403);
  const agreed = client.close();
  socket.actions[1].ack({ status: "ok" });
  await agreed;
  assert.equal(client.session.state, "closed");
});

test("leave tells the server and does not come back", async () => {
  const { client, socket } = await attached();
  const leaving = client.leave();
  assert.equal(socket.actions[0].payload.action, "leave");
  socket.actions[0].ack({ status: "ok" });
  await leaving;
  await pass(600);
  assert.equal(client.connection.state, "idle");
  assert.equal(socket.inits.length, 1);
});

test("a storage that throws costs nothing but the protection", async () => {
  const storage = new MemoryStorage();
  storage.setItem = () => {
    throw new Error("full");
  };
  const { client, socket } = await attached({ storage });
  client.send("message", { content: "a" });
  assert.equal(socket.actions.length, 1);
});
