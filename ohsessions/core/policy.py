"""The rules for passivation and for new starts after crashes: pure functions of rows and time.

All times are of the database's clock; all durations are seconds. The clock may be set back. So a stored time
is believed only up to the delay with which it was stored.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Protocol

CRASH_BUDGET = 3
"""This many crashes in a row, without STABLE_AFTER seconds of running between them, make a session fail."""
STABLE_AFTER = 60.0
"""Seconds of running after which earlier crashes no longer count."""
YOUNG = 5.0
"""Seconds of running during which a session is very suspect if its worker dies."""
VERY_SUSPECT, SOMEWHAT_SUSPECT = 2, 1
"""Points added when a session's worker dies: 2 while starting or in the first YOUNG seconds, 1 until
STABLE_AFTER. These, YOUNG and SUSPECT were found by simulation: see lifecycle.suspects."""
SUSPECT = 8
"""The points from which a session that ran may be blamed for the death of its workers."""
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
"""Seconds before the second try, and the longest wait. Each further try doubles the wait."""
BY_QUOTA = "the quota"
"""The value of `forced_by` in a session that is passivated to make room for another one."""
QUOTA_REASON = "to make room for another session of the same person"
"""The reason of that passivation."""
EVICTED = "evicted"
"""The reason why its connections were ended."""
CLOCK_SLACK = 1.0
"""Seconds by which the times of two overlapping transactions may be out of order."""


class Sleeper(Protocol):
    """The columns of a session that decide about its passivation."""

    passivate_at: datetime | None
    forced_by: str
    last_action_number: int
    handled_number: int


class HasEpoch(Protocol):
    """The column of a session that decides which writes are accepted."""

    epoch: int


def is_stale(session: HasEpoch, epoch: int) -> bool:
    """Return whether a write under this epoch is refused: it comes from a former owner of the session."""
    return session.epoch != epoch


def due_time(connections: int, now: datetime, close_delay: float | None) -> datetime | None:
    """Return when a session falls due for passivation; None if it has connections or no delay is set."""
    if connections or close_delay is None:
        return None
    return now + timedelta(seconds=close_delay)


def believed_due_time(due: datetime, now: datetime, close_delay: float | None) -> datetime:
    """Return a stored due time, or `close_delay` from now if that is earlier. A later due time was stored
    before the clock was set back."""
    latest = due_time(0, now, close_delay)
    return due if latest is None else min(due, latest)


def has_pending_work(session: Sleeper) -> bool:
    """Return whether an acknowledged action waits or is being handled. Interrupts never count."""
    return session.last_action_number > session.handled_number


def may_passivate(session: Sleeper, now: datetime, *, busy: bool, max_busy: float) -> bool:
    """Return whether a session may be passivated now.

    A passivation that an operator or the quota forces (`forced_by`) waits for nothing. Otherwise a pending
    action or a busy runtime postpones it, up to `max_busy` after the session fell due.
    """
    if session.passivate_at is None or session.passivate_at > now:
        return False
    if session.forced_by:
        return True
    waits = busy or has_pending_work(session)
    return not waits or now - session.passivate_at >= timedelta(seconds=max_busy)


def may_retry(retry_at: datetime | None, now: datetime) -> bool:
    """Return whether a session may be started again. A time further ahead than RETRY_MOST counts as over: it
    was stored before the clock was set back."""
    return retry_at is None or not now < retry_at <= now + timedelta(seconds=RETRY_MOST)


def seconds_since(moment: datetime, now: datetime) -> float:
    """Return the seconds since `moment`. If it lies more than CLOCK_SLACK ahead, the clock was set back since
    then: the true time is unknown, and counts as long enough (infinity)."""
    seconds = (now - moment).total_seconds()
    return seconds if seconds >= -CLOCK_SLACK else math.inf


def retry_delay(crashes: int) -> float:
    """Return the seconds to wait before the next start, after so many crashes in a row (1 or more)."""
    doublings = min(crashes - 1, 30)  # thousands would overflow a float
    return min(RETRY_MOST, RETRY_FIRST * 2.0**doublings)


def suspicion(ran: float) -> int:
    """Return the points that the death of its worker adds to a session that had run for `ran` seconds."""
    if ran < YOUNG:
        return VERY_SUSPECT
    return SOMEWHAT_SUSPECT if ran < STABLE_AFTER else 0


def is_suspect(suspicion: int) -> bool:
    """Return whether a session that ran may be blamed for the death of its workers."""
    return suspicion >= SUSPECT


def suspects_delay(suspicion: int) -> float:
    """Return the seconds within which equally suspect sessions are started again, each at its own time."""
    return retry_delay(max(1, suspicion // 4))


def is_beyond_budget(crashes: int) -> bool:
    """Return whether so many crashes in a row make the session fail."""
    return crashes >= CRASH_BUDGET
