"""The JavaScript clients' side of Socket.IO: connections of socket.io-client, all of them in one Node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from tests.chaos.sockets import CONNECT_LIMIT, Lost, OnEvent
from tests.requirements import find_socketio_client

SCRIPT = Path(__file__).with_name("node_clients.mjs")
MAX_LINE = 64 * 1024 * 1024
"""Bytes of the longest line that Node may write: a batch of events is one line."""
END_LIMIT = 5.0
"""Seconds that Node has to end after the end of its stdin."""


class NodeClients:
    """One Node, which exchanges lines of JSON with its sockets (see node_clients.mjs).

    `trouble` is called if Node ends. Raises MissingRequirement.
    """

    def __init__(self, log: Path, trouble: Callable[[str], None]) -> None:
        self._node = find_socketio_client()
        self._log = log
        self._trouble = trouble
        self._numbers = count(1)
        self._sockets: dict[int, NodeSocket] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._node,
                str(SCRIPT),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=MAX_LINE,
            )
        self._reading = asyncio.create_task(self._read(self._process.stdout), name="node clients")

    async def stop(self) -> None:
        """End Node and all its connections."""
        if self._process is None:
            return
        self._reading.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def make_socket(self, on_event: OnEvent) -> NodeSocket:
        """Return a new ClientSocket of this Node."""
        number = next(self._numbers)
        socket = self._sockets[number] = NodeSocket(self, number, on_event)
        return socket

    def tell(self, socket: int, word: str, **rest: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"socket": socket, "do": word, **rest}).encode() + b"\n")

    def forget(self, socket: int) -> None:
        self._sockets.pop(socket, None)

    async def _read(self, output: asyncio.StreamReader | None) -> None:
        assert output is not None
        while line := await output.readline():
            message = json.loads(line)
            # The messages of a connection that has been closed are ignored.
            if socket := self._sockets.get(message["socket"]):
                socket.take(message)
        self._trouble("Node, with the JavaScript clients, ended by itself")
        for socket in self._sockets.values():
            socket.take({"word": "ended", "reason": "Node is gone"})


class NodeSocket:
    """See ClientSocket."""

    raw = False

    def __init__(self, clients: NodeClients, number: int, on_event: OnEvent) -> None:
        self._clients = clients
        self._number = number
        self._on_event = on_event
        self._calls = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._connected: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._connected.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.closed = True
        self.port = 0
        self.sid = ""

    async def connect(self, url: str) -> None:
        self._clients.tell(self._number, "connect", url=url, limit=1000 * CONNECT_LIMIT)
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await self._connected
        except TimeoutError as error:
            raise Lost("socket.io-client did not connect in time") from error

    async def call(self, payload: Any, limit: float) -> dict[str, Any]:
        if self.closed:
            raise Lost("the connection ended")
        number = next(self._calls)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._clients.tell(self._number, "call", call=number, payload=payload)
            async with asyncio.timeout(limit):
                answer: dict[str, Any] = await future
                return answer
        finally:
            del self._answers[number]

    async def close(self) -> None:
        self._clients.forget(self._number)
        self.closed = True
        self._clients.tell(self._number, "close")

    def take(self, message: dict[str, Any]) -> None:
        """Handle a message of Node about this connection."""
        match message["word"]:
            case "connected":
                self.sid, self.port, self.closed = message["sid"], message["port"], False
                if not self._connected.done():
                    self._connected.set_result(None)
            case "event":
                self._on_event(message["name"], message["payload"], None)
            case "answer":
                future = self._answers.get(message["call"])
                if future is not None and not future.done():
                    future.set_result(message["answer"])
            case "ended":
                self.closed = True
                for waiting in [self._connected, *self._answers.values()]:
                    if not waiting.done():
                        waiting.set_exception(Lost(f"socket.io-client: {message['reason']}"))
