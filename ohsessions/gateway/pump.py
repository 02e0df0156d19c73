"""Delivery: one pump per session and gateway feeds all of the session's connections here from one log.

Each connection has a cursor, the number of the last event it was sent. Live events come over the channel
layer and are kept in a short tail. A connection whose cursor is inside the tail gets them at once; each event
is encoded once for all. A connection that is behind the tail (a replay, a gap in the layer's messages, a slow
reader) has a task of its own, which reads the log in pages, no faster than the client reads. So every
connection gets every event once, in order, even if the layer loses, doubles or reorders messages.
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
from ohsessions.processes.store import Store

logger = logging.getLogger(__name__)

TAIL_EVENTS = 512
TAIL_CHARACTERS = 1024 * 1024
PRESENCE_PAUSE = 0.05
"""Seconds for which attaches and detaches gather before connections are counted."""


class Outlet(Protocol):
    """A connection as its pump sees it. Each attach and each detach raises `generation`; output for an older
    generation is dropped. `batch` is True if the client wants the replay in arrays."""

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
        """Restart at `first`, the first number that still exists: the events before it were trimmed."""


class Pump:
    """The feeder of one session's connections. Everything here runs in the event loop's thread."""

    def __init__(self, store: Store, session_id: UUID) -> None:
        self.session_id = session_id
        self.outlets: dict[Outlet, asyncio.Task[None] | None] = {}
        """The connections; for each one that is behind, the task that feeds it."""
        self.expected = 0
        """The number of connections that are still to be added."""
        self.starved = False
        """True if the connections were notified that no worker takes their session."""
        self.secrecy = Secrecy(store, session_id)
        self._store = store
        self._head = -1
        self._tail: deque[tuple[int, str]] = deque()
        self._tail_characters = 0
        self._told: tuple[str, str, str] | None = None
        self._counting = self._count_again = False

    # Connections

    def add(self, outlet: Outlet, head: int) -> None:
        """Feed a connection, from its cursor on. `head` is the last number when it was attached."""
        self.outlets[outlet] = None
        self._head = max(self._head, head)
        self._feed(outlet)

    def remove(self, outlet: Outlet) -> None:
        """Stop feeding a connection, at once."""
        task = self.outlets.pop(outlet, None)
        if task is not None:
            task.cancel()

    # Events and notices

    def take(self, events: Iterable[tuple[int, str]], head: int) -> None:
        """Add live events of the layer, as (number, data), and the last number of the log."""
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
            # The tail must have no gap. Connections that need the missing events read the log.
            self._tail.clear()
            self._tail_characters = 0
        self._tail.append((number, packet))
        self._tail_characters += len(packet)

    def reconcile(self, head: Head) -> bool:
        """Update the pump from the database, and continue to feed connections that got stuck.

        Return True if there are events that the layer did not bring.
        """
        is_late = head.number > self._head
        self.tell_state(head.state, head.reason, head.title)
        self._head = max(self._head, head.number)
        self._feed_all()
        return is_late

    def know_state(self, state: str, reason: str, title: str) -> None:
        """Store the state that the first connection got in its answer, so that no notice repeats it."""
        if self._told is None:
            self._told = (state, reason, title)

    def tell_state(self, state: str, reason: str, title: str) -> None:
        """Send a notice of the session's state, if the state differs from the last one sent."""
        if self._told != (state, reason, title):
            self._told = (state, reason, title)
            self.notice(wire.notice("session_state", state=state, reason=reason, title=title))

    def notice(self, notice: dict[str, JSON]) -> None:
        for outlet in list(self.outlets):
            outlet.notice(notice)

    def send(self, payload: dict[str, JSON]) -> None:
        """Send all connections an `oh_event` that is not stored."""
        packet = wire.event_packet(wire.encode(payload))
        for outlet in list(self.outlets):
            outlet.send_packet(packet)

    async def tell_presence(self) -> None:
        """Send a `presence` notice. Only one count runs at a time, so the last notice is true."""
        self._count_again = True
        if self._counting:
            return
        self._counting = True
        try:
            while self._count_again:
                await asyncio.sleep(PRESENCE_PAUSE)
                self._count_again = False
                read = self._store.read_patiently
                connections, users = await read(lifecycle.presence, self.session_id)
                self.notice(wire.notice("presence", connections=connections, users=users))
        finally:
            self._counting = False

    # Feeding

    def _feed_all(self) -> None:
        for outlet in list(self.outlets):
            self._feed(outlet)

    def _feed(self, outlet: Outlet) -> None:
        """Send the events that can be sent at once. If some are left, start a task for the connection."""
        if self.outlets[outlet] is not None:
            return  # its task feeds it
        self._feed_from_tail(outlet)
        if outlet.cursor >= self._head:
            outlet.batch = False
        elif not outlet.closed:
            name = f"catch up {self.session_id}"
            self.outlets[outlet] = asyncio.create_task(self._catch_up(outlet), name=name)

    def _feed_from_tail(self, outlet: Outlet) -> None:
        """Send the next events of the tail, while the connection is writable."""
        if outlet.batch or not self._tail or outlet.cursor + 1 < self._tail[0][0]:
            return
        for index in range(outlet.cursor + 1 - self._tail[0][0], len(self._tail)):
            if not outlet.writable or outlet.closed:
                return
            number, packet = self._tail[index]
            outlet.cursor = number
            outlet.send_packet(packet)

    async def _catch_up(self, outlet: Outlet) -> None:
        """Feed a connection until it is at the head. If this fails, `reconcile` starts it again."""
        try:
            while outlet.cursor < self._head and not outlet.closed:
                await outlet.wait_writable()
                self._feed_from_tail(outlet)
                head = self._head
                if outlet.cursor >= head or not outlet.writable:
                    continue
                if not await self._feed_page(outlet) and head == self._head:
                    return  # the database does not show the announced events yet; reconcile() tries again
            outlet.batch = False
        except Exception:
            extra = {"verb": "feed_failed"}
            logger.exception("A connection of session %s was not fed", self.session_id, extra=extra)
        finally:
            # The connection may have been removed, and even added again with another task.
            if self.outlets.get(outlet) is asyncio.current_task():
                self.outlets[outlet] = None

    async def _feed_page(self, outlet: Outlet) -> bool:
        """Send the next page of the log, as fast as the client reads. Return False if there was none."""
        generation = outlet.generation
        page = await self._store.read_patiently(journal.read_page, self.session_id, outlet.cursor)
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
