"""The sessions that a worker hosts, each with the task of its activation, and the room for further ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from uuid import UUID

from ohsessions.conf import conf
from ohsessions.core.errors import StaleEpoch
from ohsessions.lifecycle import Claimed
from ohsessions.processes.store import Store
from ohsessions.worker.host import SessionHost

logger = logging.getLogger(__name__)

STARTS_AT_ONCE = 16
"""The most runtimes that may be starting at a time. If all sessions of a dead worker were started at once,
none of them would be ready in time."""
SLOW_START = 5.0
"""Seconds after which a start no longer counts for STARTS_AT_ONCE: one that hangs must not hold others up."""


class Hosted:
    """A registry of hosts, each from its claim to its end."""

    def __init__(self, store: Store, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a host is ready or has ended: there may be room for another one."""
        self._store = store
        self._on_change = on_change
        self._hosts: dict[UUID, tuple[SessionHost, asyncio.Task[None]]] = {}
        self._starting: dict[SessionHost, float] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[SessionHost]:
        return iter([host for host, _ in self._hosts.values()])

    def __contains__(self, session_id: UUID) -> bool:
        return session_id in self._hosts

    def get(self, session_id: UUID) -> SessionHost | None:
        found = self._hosts.get(session_id)
        return found and found[0]

    def task(self, host: SessionHost) -> asyncio.Task[None] | None:
        """Return the task of a host that is still registered, else None."""
        found = self._hosts.get(host.session_id)
        return found[1] if found is not None and found[0] is host else None

    def room(self) -> int:
        """Return how many more sessions may be claimed now, by MAX_RUNNING_PER_WORKER and STARTS_AT_ONCE."""
        late = time.monotonic() - SLOW_START
        self._starting = {host: began for host, began in self._starting.items() if began > late}
        room = STARTS_AT_ONCE - len(self._starting)
        if conf.MAX_RUNNING_PER_WORKER is not None:
            room = min(room, conf.MAX_RUNNING_PER_WORKER - len(self._hosts))
        return max(0, room)

    def add(self, claimed: Claimed, confirmed_at: float) -> None:
        """Begin an activation. `confirmed_at`: see Membership."""
        host = SessionHost(self._store, claimed, confirmed_at, on_ready=self._ready)
        task = asyncio.create_task(host.run(), name=f"session {claimed.session_id}")
        self._hosts[claimed.session_id] = (host, task)
        self._starting[host] = time.monotonic()
        task.add_done_callback(lambda done: self._ended(host, done))

    def _ready(self, host: SessionHost) -> None:
        self._starting.pop(host, None)
        self._on_change()

    def _ended(self, host: SessionHost, task: asyncio.Task[None]) -> None:
        self._starting.pop(host, None)
        if self.task(host) is task:
            del self._hosts[host.session_id]
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, StaleEpoch):
            extra = {"verb": "host_failed"}
            logger.error("The host of session %s failed", host.session_id, exc_info=error, extra=extra)
        self._on_change()

    async def cut_off(self) -> None:
        """Cancel all hosts and wait for their end: other workers may own their sessions from now on."""
        tasks = [task for _, task in self._hosts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
