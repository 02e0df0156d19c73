// Connections of socket.io-client, as many as are asked for: commands come in on stdin and what happens goes out
// on stdout, each a line of JSON. Ends with its stdin. See node_sockets.py.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const sockets = new Map();
const tell = (socket, word, rest) => console.log(JSON.stringify({ socket, word, ...rest }));

const commands = {
  connect({ socket: id, url, limit }) {
    const socket = io(url, { transports: ["websocket"], forceNew: true, reconnection: false, timeout: limit });
    sockets.set(id, socket);
    socket.on("connect", () => {
      const { localPort } = socket.io.engine.transport.ws._socket;
      tell(id, "connected", { sid: socket.id, port: localPort });
    });
    socket.on("connect_error", (error) => tell(id, "ended", { reason: error.message }));
    socket.on("disconnect", (reason) => tell(id, "ended", { reason }));
    for (const name of ["oh_event", "oh_events", "oh_notice"]) {
      socket.on(name, (payload) => tell(id, "event", { name, payload }));
    }
  },

  call({ socket: id, call, payload }) {
    const socket = sockets.get(id);
    // It would keep what is emitted now for a connection to come.
    if (!socket?.connected) return;
    socket.emit("oh_action", payload, (answer) => tell(id, "answer", { call, answer }));
  },

  close({ socket: id }) {
    sockets.get(id)?.close();
    sockets.delete(id);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  commands[command.do](command);
}
process.exit();
