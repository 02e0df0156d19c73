"""The database's clock, which all hosts share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.conf import settings
from django.db import connection
from django.utils import timezone

from ohsessions.core.clock import Clock

_clock: Clock | None = None


def database_now() -> datetime:
    """Return the time of the database's clock, which all hosts share. On SQLite it is this host's clock.

    The time is as Django stores it: with USE_TZ off it has no zone, and is in TIME_ZONE.
    """
    if _clock is not None:
        return as_stored(_clock.now())
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def as_stored(moment: datetime) -> datetime:
    """Return a moment as Django stores and returns it: without a zone if USE_TZ is off."""
    if settings.USE_TZ or timezone.is_naive(moment):
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def as_aware(moment: datetime) -> datetime:
    """Return a stored moment with its zone, also if USE_TZ is off."""
    if timezone.is_aware(moment):
        return moment
    return timezone.make_aware(moment, timezone.get_default_timezone())


@contextmanager
def database_clock(clock: Clock) -> Iterator[None]:
    """Make `database_now` return the time of another clock, in all threads; for tests."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before
