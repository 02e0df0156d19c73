"""
Socket: one client in one namespace, as the application sees it. Handler: the application, as we see it.

Owns the output to the client: encoding, acknowledgements, and that nothing precedes the answer to CONNECT.
The dispatcher brings the client's events to the handler.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any, Protocol

from ohsessions.socketio import codec
from ohsessions.socketio.asgi import Scope
from ohsessions.socketio.connection import EngineConnection, GuestPort
from ohsessions.socketio.errors import SocketClosedError
from ohsessions.socketio.packets import MESSAGE

__all__ = ["Ack", "Handler", "Socket"]

Ack = Callable[..., None]


class Handler(Protocol):
    """
    The application's side of one Socket. One task per Socket calls it: one call at a time, in order of
    arrival.

    An exception in event(), malformed() or refused() is logged and does not end the socket.
    """

    async def connect(self, auth: object) -> None:
        """
        Accept the client, or raise ConnectionRefused.

        `auth` is the object sent with CONNECT, empty without one. Events emitted here are sent after the
        answer.
        """

    async def event(self, name: str, args: list[Any], ack: Ack | None) -> None:
        """Handle an event. `ack(*args)`, if the client asked for one, may be called once, at any time."""

    async def malformed(self, problem: codec.MalformedEvent, ack: Ack | None) -> None:
        """Handle an event that could not be read. `ack` is as in event()."""

    async def refused(self, error: Exception, ack: Ack | None) -> None:
        """Answer, in the order of arrival, an event that the connection's guest refused."""

    async def disconnect(self, reason: str) -> None:
        """Handle the end. Called once and last, even if connect() refused or `auth` could not be read."""


class Socket:
    """
    One Socket.IO connection in one namespace.

    `scope` is that of the Engine.IO handshake. Call all methods in the event loop's thread.
    """

    def __init__(self, connection: EngineConnection, namespace: str) -> None:
        self.sid = secrets.token_urlsafe(15)
        self.namespace = namespace
        # Characters of the event that is being handled. The handler may use a thread for a large one.
        self.event_size = 0
        self._connection = connection
        self._closed = False
        # The packets emitted during connect(); None once the client knows that it is connected.
        self._held: list[str] | None = []
        self._ack_ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}

    @property
    def scope(self) -> Scope:
        """The ASGI scope of the handshake: user, headers, client, query_string."""
        return self._connection.scope

    @property
    def guest(self) -> GuestPort | None:
        """The guest that the server's make_guest returned for the connection; None without make_guest."""
        return self._connection.guest

    @property
    def transport(self) -> str:
        """The transport of the connection now: `websocket` or `polling`."""
        return str(self._connection.engine.transport)

    @property
    def closed(self) -> bool:
        """True if this socket has ended. Packets sent after that are dropped."""
        return self._closed or self._connection.closed

    @property
    def writable(self) -> bool:
        """False while a barrier waits for the client to read; see EngineIO.writable."""
        return self._closed or self._connection.engine.writable

    async def wait_writable(self) -> None:
        """Wait until the socket is writable or closed."""
        if not self._closed:
            await self._connection.wait_writable()

    @property
    def is_known(self) -> bool:
        """See lift_limit()."""
        return self._connection.is_known

    def lift_limit(self) -> None:
        """Accept messages of max_payload: the client is known. See EngineSettings.first_payload."""
        self._connection.lift_limit()

    def emit(self, name: str, *args: object) -> None:
        """Queue an event. Raises ValueError or TypeError if JSON cannot express an argument."""
        self.send_text(codec.encode_event(name, *args, namespace=self.namespace))

    def send_text(self, packet: str) -> None:
        """Queue a packet of codec.encode_event() for this namespace; many sockets can share one packet."""
        if self._closed:
            return
        if self._held is not None:
            self._held.append(packet)
        else:
            self._connection.send(MESSAGE + packet)

    async def call(self, name: str, *args: object, timeout: float | None = None) -> list[Any]:
        """
        Emit an event and return the arguments of the client's acknowledgement.

        Raises TimeoutError after `timeout` seconds, SocketClosedError if the client leaves before, and
        MalformedEventError if the acknowledgement cannot be read.
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
        """See close(). Does not wait for the handler; its disconnect() follows its current call."""
        self.close(reason, reconnect=reconnect)

    def close(self, reason: str, *, reconnect: bool = False) -> None:
        """
        End the socket and its connection, after the queued packets.

        JavaScript clients do not reconnect after a DISCONNECT packet. With `reconnect` none is sent, so
        they reconnect.
        """
        if self.closed:
            return
        if not reconnect:
            self.send_text(codec.encode_disconnect(self.namespace))
        self._connection.close(reason)

    # -- for the dispatcher

    def confirm(self) -> None:
        """Accept the client, then send the packets that were emitted meanwhile."""
        held, self._held = self._held or [], None
        for packet in [codec.encode_connect(self.namespace, self.sid), *held]:
            self.send_text(packet)

    def refuse(self, message: str, data: dict[str, Any] | None = None) -> None:
        """Refuse the client; packets that were emitted meanwhile are dropped."""
        self._held = None
        self.send_text(codec.encode_connect_error(self.namespace, message, data))

    def ack_for(self, ack_id: int | None) -> Ack | None:
        """Return a function that acknowledges once, or None if the client did not ask for it."""
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
        """Pass the client's answer to its call(). An unexpected or binary acknowledgement is ignored."""
        waiting = None if packet.ack_id is None else self._waiting.get(packet.ack_id)
        if waiting is None or waiting.done() or packet.kind is not codec.Kind.ACK:
            return
        try:
            most = self._connection.engine.settings.max_values
            waiting.set_result(codec.parse_json(packet.data, most))
        except codec.MalformedEventError as exc:
            waiting.set_exception(exc)

    def end(self) -> None:
        """End the socket: nothing is sent any more, and waiting calls fail with SocketClosedError."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SocketClosedError("the client left before it acknowledged"))
