"""The whole Socket.IO server in this process. Inputs come as requests and websockets, and are handled.

Its handler reads actions as the gateway does. An error in the log is a finding. So is anything that remains
of a client after its end.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from typing import Any

from ohsessions.core import wire
from ohsessions.core.errors import WireError
from ohsessions.socketio import Ack, MalformedEvent, Socket, SocketIOConsumer, SocketIOServer
from ohsessions.testing import WebSocket

LOGGER = logging.getLogger("ohsessions.socketio")
LOOK = 50
"""The turns of the loop within which a client's tasks must end."""


class Reader:
    """A handler that reads every action and answers it."""

    events = 0
    """Events that any Reader has got."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    async def connect(self, auth: object) -> None:
        assert isinstance(auth, dict)

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        Reader.events += 1
        try:
            wire.parse_request(args, max_bytes=20_000)
        except WireError as error:
            self.answer(error, ack)

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        self.answer(WireError(400, problem.reason, problem.message), ack)

    def answer(self, error: WireError, ack: Ack | None) -> None:
        if ack is not None:
            ack(wire.error_ack(error))
        else:
            self.socket.emit("oh_event", wire.error_event(error))

    async def disconnect(self, reason: str) -> None:
        assert reason


class Errors(logging.Handler):
    """A log handler that keeps the first error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.first is None:
            found = record.exc_info[1] if record.exc_info else None
            self.first = found or AssertionError(record.getMessage())


class Stack:
    """One server for all inputs."""

    def __init__(self) -> None:
        self.errors = Errors()
        LOGGER.addHandler(self.errors)
        self.tasks: set[asyncio.Task[None]] = set()
        self.server = _Watched(Reader, admit=lambda scope: None)
        self.server.running = self.tasks
        self.consumer = SocketIOConsumer.as_asgi(server=self.server)

    async def request(self, method: str, query: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return its status and body."""
        scope = _scope("http", query) | {"method": method}
        incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        incoming.put_nowait({"type": "http.request", "body": body})
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.consumer(scope, incoming.get, send)
        return int(sent[0]["status"]), sent[1]["body"]

    async def websocket(self, packets: list[str | bytes]) -> None:
        """Open a websocket, send these packets on it, and leave."""
        websocket = WebSocket(self.consumer, _scope("websocket", "EIO=4&transport=websocket"))
        await websocket.open()
        websocket.send_packet(*packets)
        await websocket.leave()

    async def look(self) -> None:
        """Raise the error that was logged, or AssertionError if anything of a client remains."""
        for _ in range(LOOK):
            if not self.tasks:
                break
            await asyncio.sleep(0)
        error, self.errors.first = self.errors.first, None
        left = (len(self.server.connections), len(self.server.sockets), len(self.tasks))
        for connection in list(self.server.connections.values()):
            connection.abort("over")
        if error is not None:
            raise error
        assert left == (0, 0, 0), f"(connections, sockets, tasks) are left: {left}"


class _Watched(SocketIOServer):
    running: set[asyncio.Task[None]]

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = super().spawn(work, name)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


def _scope(kind: str, query: str) -> dict[str, Any]:
    return {
        "type": kind,
        "path": "/socket.io/",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ["127.0.0.1", 5],
        "server": ["127.0.0.1", 8000],
    }


_stack: tuple[asyncio.AbstractEventLoop, Stack] | None = None


def stack() -> Stack:
    """Return the server of the running loop."""
    global _stack
    loop = asyncio.get_running_loop()
    if _stack is None or _stack[0] is not loop:
        if _stack is not None:
            LOGGER.removeHandler(_stack[1].errors)
        _stack = loop, Stack()
    return _stack[1]


async def feed_polling(data: bytes) -> None:
    """Poll, POST the input, and leave."""
    here = stack()
    _, opened = await here.request("GET", "EIO=4&transport=polling")
    query = f"EIO=4&transport=polling&sid={json.loads(opened[1:])['sid']}"
    status, _ = await here.request("POST", query, data)
    assert status in (200, 400, 413), f"a POST was answered {status}"
    if status != 400:  # the POST has ended the connection; after too many packets it ends in order
        await here.request("POST", query, b"1")
    await here.look()


async def feed_websocket(data: bytes) -> None:
    """Send the input's packets as messages of a websocket, some of them binary."""
    packets = [
        packet[1:] if packet.startswith(b"b") else packet.decode("utf-8", "replace")
        for packet in data.split(b"\x1e")
    ]
    here = stack()
    await here.websocket(packets)
    await here.look()
