"""
One Engine.IO connection with its I/O: the engine, its timer, the one path to the ASGI server.

Owns the time of writes and the waking of tasks. The engine has the rules; the receiver knows the meaning of
messages. Every entry point ends in `_settle`, which acts on the engine's new state. So callers that need a
method of the engine call it by act().
"""

import asyncio
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ohsessions.socketio.asgi import Credentials, Scope, Send
from ohsessions.socketio.binding import Binding
from ohsessions.socketio.engine import EngineIO, EngineState, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.inflow import Inflow
from ohsessions.socketio.packets import count_packets, decode_payload

__all__ = ["FAIR_SHARE", "EngineConnection", "GuestPort", "Receiver"]

P = ParamSpec("P")
T = TypeVar("T")

# After this many packets in a row other tasks have their turn, above all the handler. Otherwise the bound of
# the inbox would refuse a burst that the handler can manage.
FAIR_SHARE = 100


class Receiver(Protocol):
    """The part of an application that gets the messages of a connection."""

    def message(self, data: str | bytes) -> None:
        """Handle one message; must not block. Raises PacketError to close the connection."""

    def flooded(self) -> None:
        """Notify a client that sends too much. Its connection is closed afterwards."""

    def closed(self, reason: str) -> None:
        """Handle the end. Called once, when nothing can be sent or received any more."""


class GuestPort(Protocol):
    """The application's record of a connection, from its handshake on; see server.EngineServer."""

    def arriving(self, size: int) -> Exception | None:
        """Count an event of `size` characters, not parsed yet. Return the error that refuses it, or None."""

    def handled(self, size: int) -> None:
        """Stop counting an event that has been handled or dropped."""

    def leave(self) -> None:
        """Stop counting the connection. Called once, when the connection is forgotten."""


class InletPort(Protocol):
    """A server's limits on the messages of a websocket, which apply before we receive them."""

    def limit(self, size: int) -> None:
        """Accept messages of at most `size` bytes."""

    def lift(self) -> None:
        """Accept all that the server accepts from a known client."""


class EngineConnection:
    """
    A server's connection to one client.

    `scope` is that of the handshake. `on_end` is called when the connection's sid can be forgotten. In
    polling this is a little after `closed`, since the client still fetches the last packets.
    """

    def __init__(
        self,
        engine: EngineIO,
        scope: Scope,
        credentials: Credentials,
        on_end: Callable[["EngineConnection"], None],
    ) -> None:
        self.engine = engine
        self.scope = scope
        self.credentials = credentials
        self.receiver: Receiver | None = None
        self.guest: GuestPort | None = None
        self.binding: Binding | None = None  # None if the handshake was a websocket
        self.closed_by_us = False
        self.is_posting = False  # a POST is being read; a second one would overtake it
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        numbers = engine.settings
        self._inflow = Inflow(numbers.packet_rate, numbers.byte_rate, numbers.max_payload, self._loop.time)
        self._lifted = numbers.first_payload is None
        self._inlet: InletPort | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._patience: asyncio.Timeout | None = None
        self._told_closed = self._told_end = False
        self._arm()

    @property
    def closed(self) -> bool:
        """True if nothing more can be sent."""
        return self.engine.state is not EngineState.OPEN

    @property
    def input_limit(self) -> int:
        """The size of the largest message that is accepted now."""
        settings = self.engine.settings
        first = settings.first_payload
        return settings.max_payload if self._lifted or first is None else first

    @property
    def is_known(self) -> bool:
        """True if the application knows the client, by the handshake or since lift_limit()."""
        return self._lifted

    def lift_limit(self) -> None:
        """Accept messages of max_payload from now on: the application knows the client."""
        self._lifted = True
        self.engine.lift()
        if self._inlet is not None:
            self._inlet.lift()

    def use_inlet(self, inlet: InletPort | None) -> None:
        """Set the limits of this connection in its websocket's server, if the server has an inlet."""
        self._inlet = inlet
        if inlet is not None:
            inlet.limit(self.input_limit)
            if self._lifted:
                inlet.lift()

    async def wait_writable(self) -> None:
        """Return as soon as the connection is writable or closed."""
        while not self.engine.writable:
            await self._writable.wait()

    def act(self, step: Callable[Concatenate[EngineIO, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the engine, for example EngineIO.end_poll, and act on the state after it."""
        try:
            return step(self.engine, *args, **kwargs)
        finally:
            self._settle()

    def send(self, packet: str | bytes) -> None:
        """Queue an Engine.IO packet."""
        self.engine.send(packet)
        self._settle()

    def close(self, reason: str) -> None:
        """See EngineIO.close."""
        self.closed_by_us = not self.closed
        self.engine.close(reason)
        self._settle()

    def abort(self, reason: str) -> None:
        """See EngineIO.abort."""
        self.engine.abort(reason)
        self._settle()

    def received(self, packet: str | bytes) -> None:
        """Handle one packet of the client. A packet over the rate closes the connection as `flooding`."""
        if self._inflow.try_take(1, len(packet)):
            self._take(packet)
        else:
            self._flood()

    def _flood(self) -> None:
        if self.closed:
            self.abort("flooding")
            return
        if self.receiver is not None:
            self.receiver.flooded()
        self.close("flooding")

    def _take(self, packet: str | bytes) -> None:
        try:
            message = self.engine.receive(packet)
            if message is not None and self.receiver is not None and not self.closed:
                self.receiver.message(message)
        except PacketError:
            self.engine.abort("parse error")
        self._settle()

    async def receive_payload(self, body: bytes) -> bool:
        """
        Handle the body of a POST. Return False if it broke the protocol, which closes the connection.

        Raises RequestRefused, before the body is split, if one POST has too many packets. This and a body
        over the rate close the connection as `flooding`.
        """
        count = count_packets(body)
        if count > self.engine.settings.post_packets:
            self._flood()
            raise RequestRefused.too_large()
        if not self._inflow.try_take(count, len(body)):
            self._flood()
            return True
        try:
            for number, packet in enumerate(decode_payload(body), 1):
                self._take(packet)
                if number % FAIR_SHARE == 0:
                    await asyncio.sleep(0)
        except PacketError:
            self.abort("parse error")
        return self.engine.reason != "parse error"

    # -- websocket

    async def write(self, send: Send) -> None:
        """
        Write the queue to a websocket until the connection has ended.

        Only this method writes, so the order is that of the queue. If the peer is gone, the connection is
        aborted.
        """
        queue = self.engine.queue
        try:
            async with asyncio.timeout(None) as self._patience:
                while True:
                    while queue:
                        packet = queue.popleft()
                        key = "text" if isinstance(packet, str) else "bytes"
                        await send({"type": "websocket.send", key: packet})
                    if self.closed:
                        break
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass  # aborted while send() waited for a client that does not read
        except OSError:
            pass  # the peer is gone
        finally:
            self._patience = None
        self.abort("transport close")

    async def wait_poll(self) -> None:
        """Wait until the poll can be answered. It resumes one turn of the loop later, so packets gather."""
        while not self.engine.poll_is_ready:
            self._wake.clear()
            await self._wake.wait()

    @property
    def is_upgraded(self) -> bool:
        """True if a websocket carries the connection."""
        return self.engine.transport is Transport.WEBSOCKET

    # -- consequences

    def _settle(self) -> None:
        engine = self.engine
        if engine.state is not EngineState.OPEN:
            self._close()
        elif engine.queue or engine.upgrading:
            self._wake.set()
        if engine.writable:
            self._writable.set()
        else:
            self._writable.clear()
        self._arm()

    def _close(self) -> None:
        self._wake.set()
        if self.engine.state is EngineState.CLOSED:
            self._end()
        if not self._told_closed:
            self._told_closed = True
            if self.receiver is not None:
                self.receiver.closed(self.engine.reason)

    def _end(self) -> None:
        if self._patience is not None:
            self._patience.reschedule(self._loop.time())
            self._patience = None
        if not self._told_end:
            self._told_end = True
            self._on_end(self)

    def _arm(self) -> None:
        """Set one timer, not later than the engine's deadline. A timer that fires early does no harm."""
        deadline = self.engine.deadline
        timer = self._timer
        if deadline is None:
            if timer is not None:
                timer.cancel()
                self._timer = None
        elif timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.engine.tick()
        self._settle()
