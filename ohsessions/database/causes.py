"""Database errors, described for people: a full disk, too small a pool, or the driver's message."""

from __future__ import annotations

import logging
import math
import time

from django.db import connection

from ohsessions.concurrency.outages import Outage

logger = logging.getLogger(__name__)

DISK_FULL = frozenset({"53100", "SQLITE_FULL"})
"""The codes of PostgreSQL and SQLite for a full disk. Sources: appendix A of PostgreSQL's manual; SQLite's
result codes."""

QUIET = 10.0
"""Seconds without a failure after which the disk has room again. Small writes succeed now and then on a full
disk: without this pause the log would report an end of the outage each time."""


class Storage(Outage):
    """The outage of a full disk, until a write succeeds QUIET seconds after the last failure. Reads go on."""

    def __init__(self) -> None:
        super().__init__(logger, "Storing in the database", "storage")
        self._failed_at = -math.inf

    def failed(self, problem: object) -> None:
        self._failed_at = time.monotonic()
        super().failed(problem)

    def worked(self) -> None:
        if time.monotonic() - self._failed_at >= QUIET:
            super().worked()


storage = Storage()
NO_ROOM = "The database's disk is full: make room. Until then clients get error 503."


def code_of(error: BaseException) -> str:
    """Return the driver's code of an error, such as 53100 or SQLITE_FULL; empty if it has none."""
    cause = error.__cause__ or error
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or "")


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means a full disk. SQLite reports that as an I/O error at times."""
    code = code_of(error)
    return code in DISK_FULL or code.startswith("SQLITE_IOERR")


def describe(error: BaseException) -> str:
    """Return an error as one line for the log, with its remedy if that is known."""
    if pool := _exhausted_pool(error):
        return pool
    name, text = type(error).__name__, str(error).partition("\n")[0][:200]
    code = code_of(error)
    return f"{name}{f' ({code})' if code else ''}{f': {text}' if text else ''}"


def _exhausted_pool(error: BaseException) -> str:
    """Return the log's text for a pool whose connections are all taken; empty for any other error.

    A pool that cannot connect raises the same error, but has room for more.
    """
    pool = getattr(connection, "pool", None)
    if type(error.__cause__).__name__ != "PoolTimeout" or pool is None:
        return ""
    stats = pool.get_stats()
    if stats["pool_size"] < stats["pool_max"]:
        return ""
    return (
        f"no connection of the pool was free within {pool.timeout:g} s: all {stats['pool_max']} are taken."
        ' Raise OPTIONS["pool"]["max_size"] of the database (`manage.py check` reports the number)'
    )
