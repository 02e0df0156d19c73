"""
Socket.IO over one Engine.IO connection: its namespaces, each with a socket and a dispatcher.

Owns the order of packets. A packet out of order closes the connection, as in Node's server.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ohsessions.socketio.codec import Kind, Packet, encode_connect_error, parse_packet
from ohsessions.socketio.connection import EngineConnection
from ohsessions.socketio.dispatcher import Dispatcher
from ohsessions.socketio.errors import PacketError
from ohsessions.socketio.packets import MESSAGE
from ohsessions.socketio.sockets import Handler, Socket

__all__ = ["Namespaces", "ServerPort"]

# Sockets of one connection whose handlers have not returned from disconnect(), including connected ones.
MAX_RUNNING = 32
# CONNECT packets of one connection, accepted or refused. Clients need one for each namespace.
MAX_CONNECTS = 100


class ServerPort(Protocol):
    """The part of a server that a Namespaces uses."""

    namespaces: tuple[str, ...]
    handler_factory: Callable[[Socket], Handler]
    farewell: Callable[[Socket, str], None] | None
    large: asyncio.Semaphore

    def register(self, socket: Socket) -> None:
        """Add a socket that was created."""

    def unregister(self, socket: Socket) -> None:
        """Remove a socket that has ended."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run the work in a task that the server awaits when it closes."""


class Namespaces:
    """The receiver of a connection's messages; see connection.Receiver."""

    def __init__(self, server: ServerPort, connection: EngineConnection) -> None:
        self._server = server
        self._connection = connection
        self._dispatchers: dict[str, Dispatcher] = {}
        self._running = 0
        self._connects = 0
        self._attachments = 0  # binary messages of a binary event that are still to come, and are dropped
        self._timer: asyncio.TimerHandle | None = None
        self._expect_connect()

    def message(self, data: str | bytes) -> None:
        """See connection.Receiver."""
        if isinstance(data, bytes):
            if not self._attachments:
                raise PacketError("a binary message without an event before it")
            self._attachments -= 1
            return
        if self._attachments:
            raise PacketError("text in place of a binary attachment")
        packet = parse_packet(data)
        self._attachments = packet.attachments
        dispatcher = self._dispatchers.get(packet.namespace)
        if packet.kind is Kind.CONNECT:
            self._connect(packet)
        elif dispatcher is None:
            raise PacketError("the namespace is not connected")
        elif packet.kind is Kind.DISCONNECT:
            self._remove(packet.namespace, "client disconnect", drop=False)
        elif packet.kind in (Kind.ACK, Kind.BINARY_ACK):
            dispatcher.socket.acknowledged(packet)
        elif not dispatcher.try_put(packet):
            self._flooded(dispatcher.socket)

    def flooded(self) -> None:
        """See connection.Receiver."""
        for dispatcher in list(self._dispatchers.values()):
            self._flooded(dispatcher.socket)

    def closed(self, reason: str) -> None:
        """See connection.Receiver."""
        for namespace in list(self._dispatchers):
            self._remove(namespace, reason, drop=self._connection.closed_by_us)
        if self._timer is not None:
            self._timer.cancel()

    def _connect(self, packet: Packet) -> None:
        namespace = packet.namespace
        self._connects += 1
        if self._connects > MAX_CONNECTS:
            raise PacketError("too many CONNECT packets")
        if namespace in self._dispatchers:
            raise PacketError("the namespace is connected already")
        if self._running >= MAX_RUNNING:
            raise PacketError("the client connects and disconnects faster than its handlers end")
        if namespace not in self._server.namespaces:
            self._connection.send(MESSAGE + encode_connect_error(namespace, "Invalid namespace"))
            return
        socket = Socket(self._connection, namespace)
        dispatcher = Dispatcher(
            socket,
            self._server.handler_factory(socket),
            self._connection.engine.settings,
            self._server.large,
            on_refused=lambda: self._remove(namespace, "refused", drop=True),
        )
        self._dispatchers[namespace] = dispatcher
        self._server.register(socket)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task = self._server.spawn(dispatcher.run(packet), f"socket {socket.sid}")
        self._running += 1
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running -= 1

    def _remove(self, namespace: str, reason: str, *, drop: bool) -> None:
        dispatcher = self._dispatchers.pop(namespace, None)
        if dispatcher is None:
            return
        self._server.unregister(dispatcher.socket)
        dispatcher.finish(reason, drop=drop)
        if not self._dispatchers and not self._connection.closed:
            self._expect_connect()

    def _expect_connect(self) -> None:
        """Start the timer that closes a connection without any namespace: it costs memory for nothing."""
        self._timer = asyncio.get_running_loop().call_later(
            self._connection.engine.settings.connect_timeout, self._connection.close, "connect timeout"
        )

    def _flooded(self, socket: Socket) -> None:
        if self._server.farewell is not None:
            self._server.farewell(socket, "flooding")
        socket.close("flooding")
