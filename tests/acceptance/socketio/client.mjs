// A scenario with socket.io-client: node client.mjs <url> <scenario> <transport>…; prints one JSON value.
import { io } from "socket.io-client";

const [url, scenario, ...transports] = process.argv.slice(2);
const options = { transports, reconnectionDelay: 50, reconnectionDelayMax: 100 };

const once = (emitter, name) => new Promise((resolve) => emitter.once(name, (...args) => resolve(args)));

async function settled(socket) {
  if (transports.length > 1 && socket.io.engine.transport.name !== "websocket") {
    await once(socket.io.engine, "upgrade");
  }
  return socket.io.engine.transport.name;
}

const scenarios = {
  async echo() {
    const socket = io(url, { ...options, auth: { token: "é" } });
    const [auth] = await once(socket, "auth");
    const first = await socket.emitWithAck("double", { a: [1, "\u2028", null] });
    const transport = await settled(socket);
    const second = await socket.emitWithAck("double", "after");
    socket.on("question", (question, answer) => answer(question + "!"));
    socket.emit("ask", "who");
    const [asked] = await once(socket, "asked");
    const custom = socket.io.socket("/custom", { auth: { place: 2 } });
    const [customAuth] = await once(custom, "auth");
    socket.close();
    custom.close();
    return { auth, first, transport, second, asked, customAuth };
  },

  async flood() {
    const socket = io(url, options);
    const numbers = [];
    socket.on("data", (number, text) => text.length === 5000 && numbers.push(number));
    socket.emit("flood", 1000, 5000);
    while (numbers.length < 1000) await once(socket, "data");
    const order = numbers.every((number, index) => number === index);
    const transport = await settled(socket);
    socket.close();
    return { order, transport };
  },

  // What is emitted around the upgrade arrives once and in order, both ways.
  async upgrade() {
    const socket = io(url, options);
    const back = [];
    socket.on("n-back", (number) => back.push(number));
    let sent = 0;
    const send = setInterval(() => sent < 300 && socket.emit("n", sent++), 1);
    while (back.length < 300) await once(socket, "n-back");
    clearInterval(send);
    const transport = socket.io.engine.transport.name;
    socket.close();
    return { order: back.every((number, index) => number === index), count: back.length, transport };
  },

  async offline() {
    const socket = io(url, { ...options, autoConnect: false });
    const back = [];
    socket.on("n-back", (number) => back.push(number));
    for (let number = 0; number < 900; number++) socket.emit("n", number);
    socket.connect();
    while (back.length < 900) await once(socket, "n-back");
    socket.close();
    return back.every((number, index) => number === index);
  },

  async binary() {
    const socket = io(url, options);
    const refused = await socket.emitWithAck("image", Buffer.from("123"), { more: Buffer.from("456") });
    const after = await socket.emitWithAck("still", "here");
    socket.close();
    return { reason: refused.reason, name: refused.name, after };
  },

  async refused() {
    const socket = io(url, { ...options, auth: { refuse: "login_required" } });
    const [error] = await once(socket, "connect_error");
    socket.close();
    return { message: error.message, data: error.data };
  },

  async kicked() {
    const socket = io(url, options);
    await once(socket, "auth");
    await settled(socket);
    socket.emit("leave");
    const [reason] = await once(socket, "disconnect");
    return { reason, active: socket.active };
  },

  async recalled() {
    const socket = io(url, options);
    await once(socket, "auth");
    await settled(socket);
    socket.emit("leave", true);
    const [reason] = await once(socket, "disconnect");
    await once(socket, "auth");
    socket.close();
    return { reason };
  },
};

const limit = setTimeout(() => {
  console.error(`scenario ${scenario} did not end`);
  process.exit(1);
}, 30000);
console.log(JSON.stringify(await scenarios[scenario]()));
clearTimeout(limit);
