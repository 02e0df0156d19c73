"""
A Socket: one client in one namespace, as the application sees it. And Handler: the application, as we see it.

Owns what goes to the client: encoding, acknowledgements, and that nothing precedes the answer to CONNECT.
What comes from the client is brought to the handler by the dispatcher.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any, Protocol

from ohsessions.socketio import codec
from ohsessions.socketio.connection import Connection, Guest, Scope
from ohsessions.socketio.errors import SocketClosedError
from ohsessions.socketio.packets import MESSAGE

__all__ = ["Ack", "Handler", "Socket"]

Ack = Callable[..., None]


class Handler(Protocol):
    """
    The application's side of one Socket. One task per Socket calls it: one call at a time, in order of
    arrival.

    An exception of event() or malformed() is logged and does not end the socket.
    """

    async def connect(self, auth: object) -> None:
        """
        Accept the client, or raise ConnectionRefused.

        `auth` is the object sent with CONNECT, empty without one. What is emitted here is sent after the
        answer.
        """

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        """Handle an event. `ack(*args)`, when the client asked for one, works once and from anywhere."""

    async def malformed(self, problem: codec.MalformedEvent, ack: Ack | None) -> None:
        """Handle an event that could not be read; `ack` as in event()."""

    async def refused(self, error: Exception, ack: Ack | None) -> None:
        """Answer an event that the connection's guest refused at its arrival, in its place in the order."""

    async def disconnect(self, reason: str) -> None:
        """Called exactly once and last, for each connect() that was called, whether it accepted or not."""


class Socket:
    """
    One Socket.IO connection in one namespace.

    `scope` is that of the Engine.IO handshake. All methods are for the event loop's thread.
    """

    def __init__(self, connection: Connection, namespace: str) -> None:
        self.sid = secrets.token_urlsafe(15)
        self.namespace = namespace
        # Characters of the event that the handler is called with: large ones are for a thread.
        self.event_size = 0
        self._connection = connection
        self._closed = False
        # What connect() emits; None once the client knows that it is connected.
        self._held: list[str] | None = []
        self._ack_ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}

    @property
    def scope(self) -> Scope:
        """The ASGI scope of the handshake: user, headers, client, query_string."""
        return self._connection.scope

    @property
    def guest(self) -> Guest | None:
        """What the server's make_guest gave for the connection."""
        return self._connection.guest

    @property
    def transport(self) -> str:
        """`websocket` or `polling`: how the client is connected now."""
        return str(self._connection.engine.transport)

    @property
    def closed(self) -> bool:
        """Whether this socket has ended. What is sent to it then is dropped."""
        return self._closed or self._connection.closed

    @property
    def writable(self) -> bool:
        """False while the client has not shown that it read what it was sent."""
        return self._closed or self._connection.writable

    async def wait_writable(self) -> None:
        """Return at once when writable or closed, else as soon as either is so."""
        if not self._closed:
            await self._connection.wait_writable()

    @property
    def is_known(self) -> bool:
        """See lift_limit()."""
        return self._connection.is_known

    def lift_limit(self) -> None:
        """Take messages of max_payload: the client is known. See EngineSettings.first_payload."""
        self._connection.lift_limit()

    def emit(self, name: str, *args: object) -> None:
        """Queue an event. Raises ValueError or TypeError if an argument has no form in JSON."""
        self.send_text(codec.encode_event(name, *args, namespace=self.namespace))

    def send_text(self, packet: str) -> None:
        """Queue a Socket.IO packet made by codec.encode_event() for this namespace, encoded once for many."""
        if self._closed:
            return
        if self._held is not None:
            self._held.append(packet)
        else:
            self._connection.send(MESSAGE + packet)

    async def call(self, name: str, *args: object, timeout: float | None = None) -> list[Any]:
        """
        Emit an event and return what the client acknowledges it with.

        Raises TimeoutError after `timeout` seconds, and SocketClosedError if the client goes before.
        """
        if self.closed:
            raise SocketClosedError("the socket is closed")
        ack_id = next(self._ack_ids)
        waiting: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[ack_id] = waiting
        self.send_text(codec.encode_event(name, *args, namespace=self.namespace, ack_id=ack_id))
        try:
            async with asyncio.timeout(timeout):
                return await waiting
        finally:
            self._waiting.pop(ack_id, None)

    async def disconnect(self, reason: str = "server disconnect", *, reconnect: bool = False) -> None:
        """See close(). Does not wait for the handler, whose disconnect() follows its current call."""
        self.close(reason, reconnect=reconnect)

    def close(self, reason: str, *, reconnect: bool = False) -> None:
        """
        End the socket and its connection, after what is queued.

        JavaScript clients stay away after a DISCONNECT packet; with `reconnect` there is none, and they
        return.
        """
        if self.closed:
            return
        if not reconnect:
            self.send_text(codec.encode_disconnect(self.namespace))
        self._connection.close(reason)

    # -- for the dispatcher

    def confirm(self) -> None:
        """Tell the client that it is connected, then what was emitted meanwhile."""
        held, self._held = self._held or [], None
        for packet in [codec.encode_connect(self.namespace, self.sid), *held]:
            self.send_text(packet)

    def refuse(self, message: str, data: dict[str, Any] | None = None) -> None:
        """Tell the client that it is not connected."""
        self._held = None
        self.send_text(codec.encode_connect_error(self.namespace, message, data))

    def ack_for(self, ack_id: int | None) -> Ack | None:
        """A function that acknowledges once."""
        if ack_id is None:
            return None
        waiting = True

        def ack(*args: object) -> None:
            nonlocal waiting
            if waiting:
                text = codec.encode_ack(self.namespace, ack_id, args)
                waiting = False
                self.send_text(text)

        return ack

    def acknowledged(self, packet: codec.Packet) -> None:
        """The client's answer to call(). One that nobody waits for, or that says nothing, is ignored."""
        waiting = None if packet.ack_id is None else self._waiting.get(packet.ack_id)
        if waiting is None or waiting.done() or packet.kind is not codec.Kind.ACK:
            return
        try:
            most = self._connection.engine.settings.max_values
            waiting.set_result(codec.parse_json(packet.data, most))
        except codec.MalformedEventError as exc:
            waiting.set_exception(exc)

    def end(self) -> None:
        """Nothing is sent any more."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SocketClosedError("the client left before it acknowledged"))
