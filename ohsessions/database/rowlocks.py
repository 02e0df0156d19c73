"""Row locks, and how long a thread waits for a row that another transaction has locked.

The wait may be long: a process was stopped in the middle of a transaction, or a person thinks, in psql. There
are few threads, and other work waits for a thread that waits. So a unit of work may have a limit for its
first lock. Without that lock nothing has been done yet, and all of it can be repeated later. For later locks
the thread waits as long as the database's `lock_timeout` allows: something may have been committed by then.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import OperationalError, connection
from django.db.models import Model, QuerySet

from ohsessions.core.errors import RowLocked

M = TypeVar("M", bound=Model)

LOCK_NOT_AVAILABLE = "55P03"

_this_thread = threading.local()


@contextmanager
def lock_wait(seconds: float | None) -> Iterator[None]:
    """Limit how long the first `lock_rows` inside, in this thread, waits for a row; None: no limit."""
    _this_thread.limit = seconds
    try:
        yield
    finally:
        _this_thread.limit = None


def lock_rows(rows: QuerySet[M]) -> list[M]:
    """Lock the rows of a query, in its order, inside a transaction; return them.

    Raises RowLocked if a row did not become free within the limit (see lock_wait). SQLite locks no rows.
    """
    limit: float | None = getattr(_this_thread, "limit", None)
    if limit is None or connection.vendor != "postgresql":
        return list(rows.select_for_update())
    try:
        # Most rows are free, and NOWAIT needs no additional statement.
        locked = list(rows.select_for_update(nowait=True)) if not limit else _lock_within(limit, rows)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            raise RowLocked from error
        raise
    if locked:
        _this_thread.limit = None
    return locked


def lock_name(name: str) -> None:
    """Lock a name until the transaction ends, for something that has no row. Lock it before any row.

    Raises RowLocked as lock_rows() does. SQLite has one writer at a time, and locks no names.
    """
    if connection.vendor != "postgresql":
        return
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)
    limit: float | None = getattr(_this_thread, "limit", None)
    with connection.cursor() as cursor:
        if limit is None:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [key])
            return
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [key])
        (is_locked,) = cursor.fetchone()
    if not is_locked:
        raise RowLocked


def _lock_within(seconds: float, rows: QuerySet[M]) -> list[M]:
    with connection.cursor() as cursor:
        # SET LOCAL is a statement of its own and reads no row, so all reads still come after the lock.
        cursor.execute(f"SET LOCAL lock_timeout = {max(1, round(seconds * 1000))}")
        locked = list(rows.select_for_update())
        cursor.execute("SET LOCAL lock_timeout TO DEFAULT")
    return locked
