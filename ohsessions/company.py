"""
Processes that have to be alone and are not: they find each other by their rows, and say so.

On a channel layer in memory nothing reaches another process, and long polling fails where two processes share
a port; on one SQLite file the writers of two processes wait for each other. Both happen by accident: a server
that is told to fork, or a second `serve`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

from django.db import connection

from ohsessions.leases import identity
from ohsessions.models import Process
from ohsessions.wakeups import is_embedded

logger = logging.getLogger(__name__)

IN_MEMORY = (
    "and the channel layer is in memory: they do not hear of each other, so clients are late, and long"
    " polling fails where its requests reach different ones. Run one process, or use Redis for"
    " CHANNEL_LAYERS."
)
ONE_FILE = "on one SQLite file: their writes wait for each other. Run one process, or use PostgreSQL."


class Company:
    """The other processes at work, as this one sees them. One object for the gateway and the worker in it."""

    def __init__(self) -> None:
        self._first_seen: dict[UUID, int] = {}
        self.problem = ""
        """What is wrong with having company, for people; empty if nothing is."""

    def look(self, own: Process, processes: Iterable[Process]) -> None:
        """Take note of the processes that live, as read from the database, and log what changes."""
        living = {process.pk: process for process in processes}
        self._first_seen = {pk: self._first_seen.get(pk, process.heartbeat) for pk, process in living.items()}
        others = [process for process in living.values() if self._is_company(own, process)]
        problem = self._describe(others)
        if problem and not self.problem:
            names = ", ".join(sorted({process.address for process in others}))
            logger.error("%s They are: %s", problem, names, extra={"verb": "company"})
        elif self.problem and not problem:
            logger.info("This process is alone again.", extra={"verb": "alone"})
        self.problem = problem

    def _is_company(self, own: Process, process: Process) -> bool:
        """Whether a row is that of another process at work. One that was killed leaves its row for a while,
        so its heartbeat has to have moved."""
        is_own = identity(process) == identity(own) or (process.host, process.pid) == (own.host, own.pid)
        moved = process.heartbeat != self._first_seen[process.pk]
        return not is_own and moved and process.state == Process.State.ACTIVE

    @staticmethod
    def _describe(others: list[Process]) -> str:
        count = len({(process.host, process.pid) for process in others})
        if not count or not (is_embedded() or connection.vendor == "sqlite"):
            return ""
        who = "Another process works" if count == 1 else f"{count} other processes work"
        return f"{who} on this database, {IN_MEMORY if is_embedded() else ONE_FILE}"


company = Company()
