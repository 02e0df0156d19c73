"""When a session may sleep, and when it may be tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from ohsessions.core import policy

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@dataclass
class Row:
    passivate_at: datetime | None = NOW
    forced_by: str = ""
    last_action_number: int = -1
    handled_number: int = -1


def may(row: Row, *, now: datetime = NOW, busy: bool = False) -> bool:
    return policy.may_passivate(row, now, busy=busy, max_busy=100)


def test_who_is_alone_is_due_after_the_close_delay_and_nobody_else():
    assert policy.due_time(0, NOW, 15) == after(15)
    assert policy.due_time(0, NOW, 0) == NOW
    assert policy.due_time(1, NOW, 0) is None
    assert policy.due_time(0, NOW, None) is None


def test_a_session_passivates_from_its_due_time_on():
    assert not may(Row(passivate_at=None))
    assert not may(Row(passivate_at=after(0.001)))
    assert may(Row())
    assert may(Row(), now=after(1000))


def test_a_pending_action_makes_it_wait_without_limit():
    assert not may(Row(last_action_number=3, handled_number=2), now=after(10**6))
    assert may(Row(last_action_number=3, handled_number=3))


def test_a_busy_runtime_makes_it_wait_up_to_a_limit():
    assert not may(Row(), busy=True)
    assert not may(Row(), busy=True, now=after(99.999))
    assert may(Row(), busy=True, now=after(100))


def test_an_operators_wish_waits_for_nothing_but_its_time():
    row = Row(forced_by="op", last_action_number=3, handled_number=2)
    assert may(row, busy=True)
    row.passivate_at = after(1)
    assert not may(row)


@pytest.mark.parametrize(
    ("crashes", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (5000, 60)]
)
def test_each_crash_doubles_the_wait_up_to_a_minute(crashes, seconds):
    assert policy.retry_delay(crashes) == seconds


def test_the_third_crash_in_a_row_is_beyond_the_budget():
    assert [policy.is_beyond_budget(crashes) for crashes in (1, 2, 3, 4)] == [False, False, True, True]
