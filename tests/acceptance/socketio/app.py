"""The ASGI application of these tests and the official suites: Socket.IO at /socket.io/, else Engine.IO.

The environment variable SOCKETIO_SETTINGS is JSON for EngineSettings.
"""

import asyncio
import json
import os
from typing import Any

from ohsessions.socketio import (
    Ack,
    ConnectionRefused,
    EngineServer,
    EngineSettings,
    MalformedEvent,
    RequestRefused,
    Socket,
    SocketIOConsumer,
    SocketIOServer,
)
from ohsessions.socketio.connection import EngineConnection

SETTINGS = EngineSettings(**json.loads(os.environ.get("SOCKETIO_SETTINGS", "{}")))
# The official suite listens for `auth` only after it has received the answer to CONNECT.
AUTH_DELAY = float(os.environ.get("SOCKETIO_AUTH_DELAY", "0"))

watchers: set[Socket] = set()


class Echo:
    """A handler that answers each event `name` by `name-back`, or by an acknowledgement."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket

    async def connect(self, auth: object) -> None:
        if isinstance(auth, dict) and auth.get("refuse"):
            raise ConnectionRefused("no", {"error_code": 401, "reason": auth["refuse"]})
        if AUTH_DELAY:
            asyncio.get_running_loop().call_later(AUTH_DELAY, self.socket.emit, "auth", auth)
        else:
            self.socket.emit("auth", auth)

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        special = getattr(self, f"on_{name}", None)
        if special is not None:
            await special(*args)
        elif ack is not None:
            ack(*args)
        else:
            self.socket.emit(f"{name}-back", *args)

    async def malformed(self, problem: MalformedEvent, ack: Ack | None) -> None:
        answer = {"reason": problem.reason, "message": problem.message, "name": problem.name}
        if ack is not None:
            ack(answer)
        else:
            self.socket.emit("malformed", answer)

    async def disconnect(self, reason: str) -> None:
        for watcher in watchers:
            watcher.emit("left", self.socket.sid, reason)
        watchers.discard(self.socket)

    async def on_watch(self) -> None:
        """Send this client an event when another one leaves."""
        watchers.add(self.socket)
        self.socket.emit("watching", self.socket.sid)

    async def on_flood(self, count: int, size: int) -> None:
        """Emit `count` events of `size` characters, as fast as the client reads."""
        for number in range(count):
            await self.socket.wait_writable()
            if self.socket.closed:
                return
            self.socket.emit("data", number, "x" * size)

    async def on_burst(self, count: int) -> None:
        for number in range(count):
            self.socket.emit("data", number)

    async def on_ask(self, question: str) -> None:
        self.socket.emit("asked", await self.socket.call("question", question, timeout=10))

    async def on_stall(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def on_leave(self, reconnect: bool = False) -> None:
        self.socket.emit("bye")
        await self.socket.disconnect("asked to", reconnect=reconnect)


class EngineEcho:
    """A receiver that sends each Engine.IO message back."""

    def __init__(self, connection: EngineConnection) -> None:
        self.connection = connection

    def message(self, data: str | bytes) -> None:
        self.connection.send(data if isinstance(data, bytes) else "4" + data)

    def flooded(self) -> None:
        pass

    def closed(self, reason: str) -> None:
        pass


class EngineEchoServer(EngineServer):
    def make_receiver(self, connection: EngineConnection) -> EngineEcho:
        return EngineEcho(connection)


def admit(scope: Any) -> None:
    if (b"origin", b"https://evil.example") in scope["headers"]:
        raise RequestRefused.forbidden()


def cookie(scope: Any) -> str:
    return "; Path=/; SameSite=Lax"


server = SocketIOServer(
    Echo,
    namespaces=("/", "/custom"),
    settings=lambda scope: SETTINGS,
    admit=admit,
    cookie=cookie,
    farewell=lambda socket, reason: socket.emit("farewell", reason),
)
socket_io = SocketIOConsumer.as_asgi(server=server)
engine_io = SocketIOConsumer.as_asgi(server=EngineEchoServer(settings=lambda scope: SETTINGS, admit=admit))


async def application(scope: Any, receive: Any, send: Any) -> None:
    await (engine_io if scope["path"].startswith("/engine.io") else socket_io)(scope, receive, send)
