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

from ohsessions import journal, lifecycle
from ohsessions.core import wire
from ohsessions.core.runtime import JSON
from ohsessions.gateway.secrecy import Secrecy
from ohsessions.journal import Head
from ohsessions.services import Services

logger = logging.getLogger(__name__)

TAIL_EVENTS = 512
TAIL_CHARACTERS = 1024 * 1024
PRESENCE_PAUSE = 0.05
"""Seconds for which comings and goings gather before they are counted."""


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

    def start_anew(self, first: int, head: int) -> None:
        """What it has not been sent yet was trimmed: `first` is the first number that is left."""


class Pump:
    """Feeds the connections of one session. Everything here runs in the event loop's thread."""

    def __init__(self, services: Services, session_id: UUID) -> None:
        self.session_id = session_id
        self.outlets: dict[Outlet, asyncio.Task[None] | None] = {}
        """The connections, and the task that feeds each one that is behind."""
        self.expected = 0
        """Connections that were promised this pump and are still to be added."""
        self.starved = False
        """Whether they were told that no worker takes their session."""
        self.secrecy = Secrecy(services, session_id)
        self._services = services
        self._head = -1
        self._tail: deque[tuple[int, str]] = deque()
        self._tail_characters = 0
        self._told: tuple[str, str, str] | None = None
        self._counting = self._count_again = False

    # Connections

    def add(self, outlet: Outlet, head: int) -> None:
        """Begins to feed a connection after its cursor. `head`: the last number when it was attached."""
        self.outlets[outlet] = None
        self._head = max(self._head, head)
        self._feed(outlet)

    def remove(self, outlet: Outlet) -> None:
        """Stops at once: nothing of this session is sent to it any more."""
        task = self.outlets.pop(outlet, None)
        if task is not None:
            task.cancel()

    # What is new

    def take(self, events: Iterable[tuple[int, str]], head: int) -> None:
        """Live events as (number, data), and the last number there is, as the layer brought them."""
        for number, data in events:
            self._keep(number, wire.event_packet(data))
            head = max(head, number)
        while len(self._tail) > TAIL_EVENTS or self._tail_characters > TAIL_CHARACTERS:
            self._tail_characters -= len(self._tail.popleft()[1])
        self._head = max(self._head, head)
        self._feed_all()

    def _keep(self, number: int, packet: str) -> None:
        last = self._tail[-1][0] if self._tail else number - 1
        if number <= last:
            return
        if number > last + 1:
            # A gap: who needs what is in it reads the log. The tail itself has none.
            self._tail.clear()
            self._tail_characters = 0
        self._tail.append((number, packet))
        self._tail_characters += len(packet)

    def reconcile(self, head: Head) -> bool:
        """What the database says, whatever the layer brought; also feeds on whoever got stuck.

        Says whether there are events of which the layer has brought nothing.
        """
        is_late = head.number > self._head
        self.tell_state(head.state, head.reason, head.title)
        self._head = max(self._head, head.number)
        self._feed_all()
        return is_late

    def know_state(self, state: str, reason: str, title: str) -> None:
        """The first connection was told this when it was attached: no notice is needed for it."""
        if self._told is None:
            self._told = (state, reason, title)

    def tell_state(self, state: str, reason: str, title: str) -> None:
        """Sends a notice of the session's state, unless that was the last one."""
        if self._told != (state, reason, title):
            self._told = (state, reason, title)
            self.notice(wire.notice("session_state", state=state, reason=reason, title=title))

    def notice(self, notice: dict[str, JSON]) -> None:
        for outlet in list(self.outlets):
            outlet.notice(notice)

    def send(self, payload: dict[str, JSON]) -> None:
        """Sends an `oh_event` that is not stored to everyone."""
        packet = wire.event_packet(wire.encode(payload))
        for outlet in list(self.outlets):
            outlet.send_packet(packet)

    async def tell_presence(self) -> None:
        """Counts who is attached, and tells. One count at a time, so that the last one told is the truth."""
        self._count_again = True
        if self._counting:
            return
        self._counting = True
        try:
            while self._count_again:
                await asyncio.sleep(PRESENCE_PAUSE)
                self._count_again = False
                read = self._services.read_patiently
                connections, users = await read(lifecycle.presence, self.session_id)
                self.notice(wire.notice("presence", connections=connections, users=users))
        finally:
            self._counting = False

    # Feeding

    def _feed_all(self) -> None:
        for outlet in list(self.outlets):
            self._feed(outlet)

    def _feed(self, outlet: Outlet) -> None:
        """Sends what can be sent at once; what is left is for a task of the connection's own."""
        if self.outlets[outlet] is not None:
            return  # its task does
        self._feed_from_tail(outlet)
        if outlet.cursor >= self._head:
            outlet.batch = False
        elif not outlet.closed:
            name = f"catch up {self.session_id}"
            self.outlets[outlet] = asyncio.create_task(self._catch_up(outlet), name=name)

    def _feed_from_tail(self, outlet: Outlet) -> None:
        """Sends what the tail has next, while the connection takes it."""
        if outlet.batch or not self._tail or outlet.cursor + 1 < self._tail[0][0]:
            return
        for index in range(outlet.cursor + 1 - self._tail[0][0], len(self._tail)):
            if not outlet.writable or outlet.closed:
                return
            number, packet = self._tail[index]
            outlet.cursor = number
            outlet.send_packet(packet)

    async def _catch_up(self, outlet: Outlet) -> None:
        """Feeds a connection until it is at the head. What it cannot do is tried again by `reconcile`."""
        try:
            while outlet.cursor < self._head and not outlet.closed:
                await outlet.wait_writable()
                self._feed_from_tail(outlet)
                head = self._head
                if outlet.cursor >= head or not outlet.writable:
                    continue
                if not await self._feed_page(outlet) and head == self._head:
                    return  # Announced, and not to be read.
            outlet.batch = False
        except Exception:
            extra = {"verb": "feed_failed"}
            logger.exception("Feeding a connection of session %s failed", self.session_id, extra=extra)
        finally:
            # It may have been removed, and even added again with another task.
            if self.outlets.get(outlet) is asyncio.current_task():
                self.outlets[outlet] = None

    async def _feed_page(self, outlet: Outlet) -> bool:
        """Sends the next page of the log as fast as it is read; says whether there was one."""
        generation = outlet.generation
        page = await self._services.read_patiently(journal.read_page, self.session_id, outlet.cursor)
        if not page:
            return False
        if outlet.generation != generation:
            return True
        if page[0][0] > outlet.cursor + 1:
            outlet.start_anew(page[0][0], max(self._head, page[-1][0]))
        if outlet.batch:
            outlet.cursor = page[-1][0]
            outlet.send_packet(wire.batch_packet([data for _, data in page]))
            return True
        for number, data in page:
            await outlet.wait_writable()
            if outlet.generation != generation or outlet.closed:
                break
            outlet.cursor = number
            outlet.send_packet(wire.event_packet(data))
        return True
