"""
Detection of processes that must run alone and do not. They find each other by their rows, and log it.

With a channel layer in memory no message reaches another process, and long polling fails if two processes
share a port. On one SQLite file the writers of two processes wait for each other. Both happen by accident: by
a server that is told to fork, or by a second `serve`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

from django.db import connection

from ohsessions.models import Process
from ohsessions.processes.leases import identity
from ohsessions.wakeups import is_embedded

logger = logging.getLogger(__name__)

IN_MEMORY = (
    "and the channel layer is in memory: they do not hear of each other, so clients are late, and long"
    " polling fails where its requests reach different ones. Run one process, or use Redis for"
    " CHANNEL_LAYERS."
)
ONE_FILE = "on one SQLite file: their writes wait for each other. Run one process, or use PostgreSQL."


class Company:
    """The other active processes, as this one sees them. The gateway and the worker of a process share it."""

    def __init__(self) -> None:
        self._first_seen: dict[UUID, int] = {}
        self.problem = ""
        """The problem that the other processes cause, in words for people; empty if there is none."""

    def look(self, own: Process, processes: Iterable[Process]) -> None:
        """Note the processes that live, as read from the database, and log changes."""
        living = list(processes)
        self._first_seen = {row.pk: self._first_seen.get(row.pk, row.heartbeat) for row in living}
        others = sorted({row.address for row in living if self._is_company(own, row)})
        problem = _describe(len(others))
        if problem and not self.problem:
            logger.error("%s They are: %s", problem, ", ".join(others), extra={"verb": "company"})
        elif self.problem and not problem:
            logger.info("This process is alone again.", extra={"verb": "alone"})
        self.problem = problem

    def _is_company(self, own: Process, process: Process) -> bool:
        """Return whether a row is that of another active process. A killed process leaves its row for a
        while, so the row's heartbeat must have changed."""
        is_own = identity(process) == identity(own) or process.address == own.address
        moved = process.heartbeat != self._first_seen[process.pk]
        return not is_own and moved and process.state == Process.State.ACTIVE


def _describe(count: int) -> str:
    if not count or not (is_embedded() or connection.vendor == "sqlite"):
        return ""
    who = "Another process works" if count == 1 else f"{count} other processes work"
    return f"{who} on this database, {IN_MEMORY if is_embedded() else ONE_FILE}"


company = Company()
