"""
Delivery of a client's events to the handler of its socket: one task, a bounded inbox, strictly in order.

The task belongs to the server, not to a request. So it continues when the client's request is cancelled. The
events that arrived before the client left are handled first, then disconnect() is called.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ohsessions.socketio.codec import (
    MalformedEvent,
    MalformedEventError,
    Packet,
    parse_auth,
    parse_event,
)
from ohsessions.socketio.connection import FAIR_SHARE
from ohsessions.socketio.errors import ConnectionRefused
from ohsessions.socketio.settings import EngineSettings
from ohsessions.socketio.sockets import Handler, Socket

__all__ = ["LARGE_AT_ONCE", "LARGE_TEXT", "Dispatcher"]

logger = logging.getLogger("ohsessions.socketio")

# Longer texts, in characters, are parsed in a thread. For shorter ones the thread would cost more.
LARGE_TEXT = 64 * 1024
# Texts longer than LARGE_TEXT that a server parses at once: each takes several times its size meanwhile.
LARGE_AT_ONCE = 1
# Refused events of an unknown client that may wait for their answers; more is flooding.
MAX_REFUSALS = 20
MAX_AUTH = 64 * 1024
"""The largest auth object of a CONNECT, in characters. The client is not known yet."""


class Dispatcher:
    """The inbox and the handler of one socket. `on_refused` is called if the client is refused."""

    def __init__(
        self,
        socket: Socket,
        handler: Handler,
        settings: EngineSettings,
        large: asyncio.Semaphore,
        on_refused: Callable[[], None],
    ) -> None:
        self.socket = socket
        self._handler = handler
        self._max_events = settings.inbox_events
        self._max_unread = min(settings.first_inbox_events, settings.inbox_events)
        self._max_bytes = settings.inbox_limit
        self._max_values = settings.max_values
        self._large = large
        self._on_refused = on_refused
        self._guest = socket.guest
        self._inbox: deque[tuple[Packet, Exception | None]] = deque()
        self._inbox_bytes = 0
        self._refusals = 0  # refused events in the inbox
        self._wake = asyncio.Event()
        self._reason: str | None = None

    def try_put(self, packet: Packet) -> bool:
        """Queue an event that arrived. Return False if there is no room: the client sends too fast."""
        if self._reason is not None:
            return True
        size = len(packet.data)
        most = self._max_unread if self._waits_for_reader else self._max_events
        if len(self._inbox) >= most or self._inbox_bytes + size > self._max_bytes:
            return False
        refusal = self._guest.arriving(size) if self._guest is not None else None
        if refusal is not None:  # the answer keeps its place in the order, but the text is not needed
            if self._refusals >= MAX_REFUSALS and not self.socket.is_known:
                return False
            packet, size = replace(packet, data=""), 0
            self._refusals += 1
        self._inbox.append((packet, refusal))
        self._inbox_bytes += size
        self._wake.set()
        return True

    def finish(self, reason: str, *, drop: bool) -> None:
        """End the socket. With `drop`, when the server ended it, events that still wait are not handled."""
        if self._reason is not None:
            return
        self._reason = reason
        self.socket.end()
        if drop:
            for packet, _ in self._inbox:
                self._handled(packet)
            self._inbox.clear()
        self._wake.set()

    async def run(self, connect: Packet) -> None:
        """Run the socket, from its CONNECT packet to the handler's disconnect()."""
        try:
            if await self._connect(connect):
                await self._serve()
        except asyncio.CancelledError:
            self.finish("server shutdown", drop=True)
            raise
        finally:
            try:
                await self._handler.disconnect(self._reason or "server error")
            except Exception:
                logger.exception("A handler failed in disconnect()", extra={"verb": "socket_handler_failed"})

    async def _connect(self, packet: Packet) -> bool:
        try:
            if len(packet.data) > MAX_AUTH:
                return self._refuse(ConnectionRefused("Payload too large"))
            await self._handler.connect(parse_auth(packet, self._max_values))
        except ConnectionRefused as exc:
            return self._refuse(exc)
        except MalformedEventError:
            return self._refuse(ConnectionRefused("Invalid payload"))
        except Exception:
            logger.exception("A handler failed in connect()", extra={"verb": "socket_handler_failed"})
            return self._refuse(ConnectionRefused("Internal error"))
        self.socket.confirm()
        return True

    def _refuse(self, refusal: ConnectionRefused) -> bool:
        self.socket.refuse(refusal.message, refusal.data)
        self._on_refused()
        self.finish("refused", drop=True)
        return False

    async def _serve(self) -> None:
        inbox = self._inbox
        while True:
            for number in itertools.count(1):
                if self._waits_for_reader:
                    # Answers to an unknown client that does not read would pile up.
                    await self.socket.wait_writable()
                if not inbox:
                    break
                packet, refusal = inbox.popleft()
                self._inbox_bytes -= len(packet.data)
                self._refusals -= refusal is not None
                try:
                    await self._handle(packet, refusal)
                finally:
                    self._handled(packet)
                    del packet  # else the last packet stays in memory until the next one
                if number % FAIR_SHARE == 0:  # a handler that only refuses never awaits
                    await asyncio.sleep(0)
            if self._reason is not None:
                return
            self._wake.clear()
            await self._wake.wait()

    @property
    def _waits_for_reader(self) -> bool:
        """True if an unknown client has not read its answers; no further event is handled then."""
        return not (self.socket.writable or self.socket.is_known)

    def _handled(self, packet: Packet) -> None:
        if self._guest is not None and packet.data:
            self._guest.handled(len(packet.data))

    async def _parse(self, packet: Packet) -> tuple[str, list[Any]]:
        """See codec.parse_event(). Large events are parsed in a thread. Later events wait for them."""
        self.socket.event_size = len(packet.data)
        if len(packet.data) <= LARGE_TEXT:
            return parse_event(packet, self._max_values)
        async with self._large:
            return await asyncio.to_thread(parse_event, packet, self._max_values)

    async def _handle(self, packet: Packet, refusal: Exception | None) -> None:
        problem: MalformedEvent | None = None
        try:
            if refusal is None:
                name, args = await self._parse(packet)
        except MalformedEventError as exc:
            problem = exc.problem
        ack = self.socket.ack_for(packet.ack_id)
        try:
            if refusal is not None:
                await self._handler.refused(refusal, ack)
            elif problem is None:
                await self._handler.event(name, args, ack)
            else:
                await self._handler.malformed(problem, ack)
        except Exception:
            logger.exception("A handler failed at an event", extra={"verb": "socket_handler_failed"})
