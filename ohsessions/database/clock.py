"""The one clock that all hosts share: the database's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection
from django.utils import timezone

from ohsessions.core.clock import Clock

_clock: Clock | None = None


def database_now() -> datetime:
    """The time of the database's clock, which all hosts share. On SQLite that is this host's."""
    if _clock is not None:
        return _clock.now()
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@contextmanager
def database_clock(clock: Clock) -> Iterator[None]:
    """Has `database_now` tell the time of another clock, in all threads; for tests."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before
