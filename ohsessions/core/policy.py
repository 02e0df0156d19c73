"""When a session may sleep and when it may be tried again: pure functions of rows and time.

All times are of the database's clock; all durations are seconds. Clocks are set back: a time that is stored
for later is believed only as far as its own delay reaches.
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
"""Seconds of running until which a session is very suspect when its worker dies."""
VERY_SUSPECT, SOMEWHAT_SUSPECT = 2, 1
"""How suspect the death of its worker makes a session that is young or being started, and one that has not
run for STABLE_AFTER seconds. These, YOUNG and SUSPECT were found by simulation: see lifecycle.suspects."""
SUSPECT = 8
"""From here on a session that ran may be blamed for the death of its workers."""
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
"""Seconds until the second try, doubled with each further one, and the longest wait."""
BY_QUOTA = "the quota"
"""Stands in `forced_by` of a session that is passivated for the sake of another one."""
QUOTA_REASON = "for another session of the same person, who may have no more awake"
"""Why it is passivated then."""
EVICTED = "evicted"
"""Why its connections were ended."""
CLOCK_SLACK = 1.0
"""Seconds by which the times of two transactions that overlap may be out of order."""


class Sleeper(Protocol):
    """What of a session's row decides about its passivation."""

    passivate_at: datetime | None
    forced_by: str
    last_action_number: int
    handled_number: int


def due_time(connections: int, now: datetime, close_delay: float | None) -> datetime | None:
    """When a session with so many connections falls due for passivation; None: not while this holds."""
    if connections or close_delay is None:
        return None
    return now + timedelta(seconds=close_delay)


def believed_due_time(due: datetime, now: datetime, close_delay: float | None) -> datetime:
    """Return a stored due time, or the latest that can be true: nothing falls due later than `close_delay`
    from now. One that says so was stored before the clock was set back."""
    latest = due_time(0, now, close_delay)
    return due if latest is None else min(due, latest)


def has_pending_work(session: Sleeper) -> bool:
    """Whether an acknowledged action waits or is being handled (interrupts never count)."""
    return session.last_action_number > session.handled_number


def may_passivate(session: Sleeper, now: datetime, *, busy: bool, max_busy: float) -> bool:
    """Whether a due session may be passivated now.

    An operator's wish (`forced_by`) waits for nothing. Otherwise a pending action, and a runtime that says it
    is busy, make it wait up to `max_busy` after the session fell due.
    """
    if session.passivate_at is None or session.passivate_at > now:
        return False
    if session.forced_by:
        return True
    waits = busy or has_pending_work(session)
    return not waits or now - session.passivate_at >= timedelta(seconds=max_busy)


def may_retry(retry_at: datetime | None, now: datetime) -> bool:
    """Whether a session may be started again. A time further away than RETRY_MOST was stored before the clock
    was set back, and is over."""
    return retry_at is None or not now < retry_at <= now + timedelta(seconds=RETRY_MOST)


def seconds_since(moment: datetime, now: datetime) -> float:
    """Return the seconds since something happened. If its time lies more than CLOCK_SLACK ahead, the clock
    was set back since: how long ago it was is unknown, and it counts as long enough (infinity)."""
    seconds = (now - moment).total_seconds()
    return seconds if seconds >= -CLOCK_SLACK else math.inf


def retry_delay(crashes: int) -> float:
    """Seconds to wait before the next start, after so many crashes in a row (1 or more)."""
    doublings = min(crashes - 1, 30)  # a float has no room for thousands
    return min(RETRY_MOST, RETRY_FIRST * 2.0**doublings)


def suspicion(ran: float) -> int:
    """How suspect the death of its worker makes a session that had run for so many seconds."""
    if ran < YOUNG:
        return VERY_SUSPECT
    return SOMEWHAT_SUSPECT if ran < STABLE_AFTER else 0


def is_suspect(suspicion: int) -> bool:
    """Whether a session that ran may be blamed for the death of its workers."""
    return suspicion >= SUSPECT


def suspects_delay(suspicion: int) -> float:
    """Seconds within which those that are equally suspect are started again, each at another time."""
    return retry_delay(max(1, suspicion // 4))


def is_beyond_budget(crashes: int) -> bool:
    """Whether so many crashes in a row make the session fail."""
    return crashes >= CRASH_BUDGET
