"""
One Engine.IO connection with its I/O: the engine, its timer, the one path to the ASGI server.

Owns when things are written and who is woken. The rules are the engine's; what messages mean is known to the
receiver. Every entry point ends in `_settle`, which looks at what the engine now wants.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ohsessions.socketio.engine import EngineIO, State, Transport
from ohsessions.socketio.errors import PacketError, RequestRefused
from ohsessions.socketio.inflow import Inflow
from ohsessions.socketio.packets import count_packets, decode_payload

__all__ = ["FAIR_SHARE", "Connection", "Credentials", "Guest", "Receiver", "Scope", "Send"]

Scope = Mapping[str, Any]
# What must be the same in all requests of a connection: see requests.credentials().
Credentials = tuple[str | None, ...]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# After so many packets in a row others have their turn, first of all the handler: else the bound of its inbox
# would refuse a burst that it could handle.
FAIR_SHARE = 100


class Receiver(Protocol):
    """Who gets the messages of a connection."""

    def message(self, data: str | bytes) -> None:
        """Take one message; must not block. Raises PacketError to have the connection closed."""

    def flooded(self) -> None:
        """The client sends too much: say so to it. Its connection is closed then."""

    def closed(self, reason: str) -> None:
        """Called once, when nothing can be sent or received any more."""


class Guest(Protocol):
    """What the application knows of a connection from its handshake on; see server.EngineServer."""

    def arriving(self, size: int) -> Exception | None:
        """Count an event of `size` characters that came and is not parsed yet; what to refuse it with."""

    def handled(self, size: int) -> None:
        """An event that was let in has been handled, or never will be."""

    def leave(self) -> None:
        """Called once, when the connection is forgotten."""


class Binding(Protocol):
    """See the module binding."""

    def fits(self, scope: Scope) -> bool:
        """Whether a request comes from the client of the handshake."""

    def set_cookie(self, attributes: str) -> bytes | None:
        """The header's value that has the client keep the cookie; None if it has it already."""


class Inlet(Protocol):
    """How a server is told what it may take of a websocket, before it hands a message to us."""

    def limit(self, size: int) -> None:
        """Take messages of at most `size` bytes."""

    def lift(self) -> None:
        """Take whatever the server takes of a known client."""


class Connection:
    """
    What a server holds of one client.

    `scope` is that of the handshake. `on_end` is called when the connection's sid can be forgotten, which in
    polling is a little after `closed`: the client still fetches the last packets.
    """

    def __init__(
        self,
        engine: EngineIO,
        scope: Scope,
        credentials: Credentials,
        on_end: Callable[["Connection"], None],
    ) -> None:
        self.engine = engine
        self.scope = scope
        self.credentials = credentials
        self.receiver: Receiver | None = None
        self.guest: Guest | None = None
        self.binding: Binding | None = None  # of one that began with polling
        self.closed_by_us = False
        self.is_posting = False  # a POST is being read; another one would overtake it
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        numbers = engine.settings
        self._inflow = Inflow(numbers.packet_rate, numbers.byte_rate, numbers.max_payload, self._loop.time)
        self._lifted = numbers.first_payload is None
        self._inlet: Inlet | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._patience: asyncio.Timeout | None = None
        self._told_closed = self._told_end = False
        self._arm()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be sent."""
        return self.engine.state is not State.OPEN

    @property
    def writable(self) -> bool:
        """See EngineIO.writable."""
        return self.engine.writable

    @property
    def input_limit(self) -> int:
        """The size of the largest message that is taken now."""
        settings = self.engine.settings
        first = settings.first_payload
        return settings.max_payload if self._lifted or first is None else first

    @property
    def is_known(self) -> bool:
        """Whether the application knows the client, by its handshake or since lift_limit()."""
        return self._lifted

    def lift_limit(self) -> None:
        """Take messages of max_payload from now on: the application knows the client."""
        self._lifted = True
        self.engine.lift()
        if self._inlet is not None:
            self._inlet.lift()

    def use_inlet(self, inlet: Inlet | None) -> None:
        """Tell the server of a websocket, if it asks, what it may take for this connection."""
        self._inlet = inlet
        if inlet is not None:
            inlet.limit(self.input_limit)
            if self._lifted:
                inlet.lift()

    async def wait_writable(self) -> None:
        """Return as soon as the connection is writable or closed."""
        while not self.engine.writable:
            await self._writable.wait()

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
        """Take one packet of the client. More than it may send closes the connection as `flooding`."""
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
        Take the body of a POST. False: it broke the protocol and the connection with it.

        Raises RequestRefused, before anything is split, if the client may not send so much in one POST.
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
        Write to a websocket what is queued, until the connection has ended.

        The only place that does, so order is that of the queue. Returns early, and aborts, if the peer is
        gone.
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
            pass  # aborted, while the server made us wait for a client that does not read
        except OSError:
            pass  # the peer is gone
        finally:
            self._patience = None
        self.abort("transport close")

    # -- long polling

    def begin_poll(self) -> None:
        """See EngineIO.begin_poll."""
        try:
            self.engine.begin_poll()
        finally:
            self._settle()

    @property
    def poll_is_ready(self) -> bool:
        """See EngineIO.poll_is_ready."""
        return self.engine.poll_is_ready

    async def wait_poll(self) -> None:
        """Return as soon as the poll can be answered. A turn of the loop later, so answers gather."""
        while not self.engine.poll_is_ready:
            self._wake.clear()
            await self._wake.wait()

    def end_poll(self) -> str:
        """See EngineIO.end_poll."""
        body = self.engine.end_poll()
        self._settle()
        return body

    def cancel_poll(self) -> None:
        """See EngineIO.cancel_poll."""
        self.engine.cancel_poll()
        self._settle()

    # -- upgrade

    def begin_probe(self) -> None:
        """See EngineIO.begin_probe."""
        self.engine.begin_probe()
        self._settle()

    def receive_probe(self, packet: str | bytes) -> str | None:
        """See EngineIO.receive_probe."""
        answer = self.engine.receive_probe(packet)
        self._settle()
        return answer

    def end_probe(self) -> None:
        """See EngineIO.end_probe."""
        self.engine.end_probe()
        self._settle()

    @property
    def is_upgraded(self) -> bool:
        """Whether a websocket carries it."""
        return self.engine.transport is Transport.WEBSOCKET

    # -- consequences

    def _settle(self) -> None:
        engine = self.engine
        if engine.state is State.CLOSED:
            self._end()
        elif engine.queue or engine.upgrading or engine.state is not State.OPEN:
            self._wake.set()
        if engine.state is not State.OPEN and not self._told_closed:
            self._told_closed = True
            if self.receiver is not None:
                self.receiver.closed(engine.reason)
        if engine.writable:
            self._writable.set()
        else:
            self._writable.clear()
        self._arm()

    def _end(self) -> None:
        self._wake.set()
        if self._patience is not None:
            self._patience.reschedule(self._loop.time())
            self._patience = None
        if not self._told_end:
            self._told_end = True
            self._on_end(self)

    def _arm(self) -> None:
        """Keep one timer, not later than the engine's deadline; one that comes early does no harm."""
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
