"""Delivery: one pump per session and gateway feeds all of the session's connections here from one log.

Each connection has a cursor, the number of the last event it was sent. Live events come over the channel
layer and are kept in a short tail; whoever is inside the tail is fed from it at once, each event encoded
once for all. Whoever is behind it (a replay, a gap in what the layer brought, a slow reader) is fed from the
log in pages by a task of its own, no faster than it reads. So every connection gets every event once, in
order, whatever the layer loses, doubles or reorders.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from ohsessions import journal
from ohsessions.core import wire
from ohsessions.core.runtime import JSON
from ohsessions.journal import Head
from ohsessions.services import Services

logger = logging.getLogger(__name__)

TAIL_EVENTS = 512
TAIL_CHARACTERS = 1024 * 1024


class Outlet(Protocol):
    """A connection as its pump sees it. `generation` is raised by each attach: output for an older one is
    dropped. `batch`: it wants the replay in arrays."""

    cursor: int
    generation: int
    batch: bool

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    async def wait_writable(self) -> None: ...

    def send_packet(self, packet: str) -> None: ...

    def notice(self, notice: dict[str, JSON]) -> None: ...


class Pump:
    """Feeds the connections of one session. Everything here runs in the event loop's thread."""

    def __init__(self, services: Services, session_id: UUID) -> None:
        self.session_id = session_id
        self.outlets: dict[Outlet, asyncio.Task[None] | None] = {}
        self.expected = 0
        """Connections that were promised this pump and are still to be added."""
        self.subscribed = False
        self._services = services
        self._head = -1
        self._tail: deque[tuple[int, str]] = deque()
        self._tail_characters = 0
        self._told: tuple[str, str, str] | None = None

    # Connections

    def add(self, outlet: Outlet, head: int) -> None:
        """Begins to feed a connection after its cursor. `head`: the last number when it was attached."""
        self.expected -= 1
        self.outlets[outlet] = None
        self._head = max(self._head, head)
        self._feed(outlet)

    def remove(self, outlet: Outlet) -> None:
        """Stops at once: nothing of this session is sent to it any more."""
        task = self.outlets.pop(outlet, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        for outlet in list(self.outlets):
            self.remove(outlet)

    # What is new

    def take(self, events: Iterable[tuple[int, str]], head: int) -> None:
        """Live events as (number, data), and the last number there is, as the layer brought them."""
        for number, data in events:
            if self._tail and number <= self._tail[-1][0]:
                continue
            if self._tail and number != self._tail[-1][0] + 1:
                # A gap: who needs what is in it reads the log. The tail itself has none.
                self._tail.clear()
                self._tail_characters = 0
            self._tail.append((number, wire.event_packet(data)))
            self._tail_characters += len(data)
            head = max(head, number)
        while len(self._tail) > TAIL_EVENTS or self._tail_characters > TAIL_CHARACTERS:
            self._tail_characters -= len(self._tail.popleft()[1])
        self._head = max(self._head, head)
        for outlet in list(self.outlets):
            self._feed(outlet)

    def reconcile(self, head: Head) -> None:
        """What the database says, whatever the layer brought."""
        self.tell_state(head.state, head.reason, head.title)
        if head.number > self._head:
            self.take([], head.number)

    def tell_state(self, state: str, reason: str, title: str) -> None:
        """Sends a notice of the session's state, unless that was the last one."""
        if self._told != (state, reason, title):
            self._told = (state, reason, title)
            self.notice(wire.notice("session_state", state=state, reason=reason, title=title))

    def notice(self, notice: dict[str, JSON]) -> None:
        for outlet in self.outlets:
            outlet.notice(notice)

    def send(self, packet: str) -> None:
        """Sends what is not stored to everyone."""
        for outlet in self.outlets:
            outlet.send_packet(packet)

    # Feeding

    def _feed(self, outlet: Outlet) -> None:
        if self.outlets[outlet] is not None:
            return  # its task does
        self._feed_from_tail(outlet)
        if outlet.cursor < self._head:
            name = f"catch up {self.session_id}"
            self.outlets[outlet] = asyncio.create_task(self._catch_up(outlet), name=name)
        else:
            outlet.batch = False

    def _feed_from_tail(self, outlet: Outlet) -> None:
        """Sends what the tail has next, while the connection takes it."""
        if not self._tail or outlet.cursor + 1 < self._tail[0][0]:
            return
        for index in range(outlet.cursor + 1 - self._tail[0][0], len(self._tail)):
            if not outlet.writable:
                return
            number, packet = self._tail[index]
            outlet.cursor = number
            outlet.send_packet(packet)

    async def _catch_up(self, outlet: Outlet) -> None:
        """Feeds a connection until it is at the head."""
        try:
            while outlet.cursor < self._head and not outlet.closed:
                await outlet.wait_writable()
                before = outlet.cursor
                self._feed_from_tail(outlet)
                if outlet.cursor == before and outlet.writable:
                    await self._feed_page(outlet)
        finally:
            if outlet in self.outlets:
                self.outlets[outlet] = None
        if not outlet.closed:
            self._feed(outlet)

    async def _feed_page(self, outlet: Outlet) -> None:
        generation = outlet.generation
        page = await self._services.read_patiently(journal.read_page, self.session_id, outlet.cursor)
        if outlet.generation != generation or outlet not in self.outlets:
            return
        if not page:
            # Announced, and not to be read (yet): the log decides.
            self._head = outlet.cursor
            return
        if outlet.batch:
            outlet.cursor = page[-1][0]
            outlet.send_packet(wire.batch_packet([data for _, data in page]))
            return
        for number, data in page:
            outlet.cursor = number
            outlet.send_packet(wire.event_packet(data))
