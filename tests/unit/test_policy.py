"""The rules for the sleep of a session, and for another start after a crash."""

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


def test_a_pending_action_makes_it_wait_up_to_a_limit():
    pending = Row(last_action_number=3, handled_number=2)
    assert not may(pending)
    assert not may(pending, now=after(99.999))
    assert may(pending, now=after(100))
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


def test_a_due_time_is_believed_only_as_far_as_the_close_delay_reaches():
    assert policy.believed_due_time(after(14), NOW, 15) == after(14)
    assert policy.believed_due_time(after(3600), NOW, 15) == after(15)
    assert policy.believed_due_time(after(-5), NOW, 15) == after(-5)
    assert policy.believed_due_time(after(3600), NOW, None) == after(3600), (
        "there is no delay to measure it by"
    )


def test_a_retry_further_away_than_the_longest_wait_is_over():
    assert policy.may_retry(None, NOW)
    assert policy.may_retry(NOW, NOW)
    assert not policy.may_retry(after(0.001), NOW)
    assert not policy.may_retry(after(policy.RETRY_MOST), NOW)
    assert policy.may_retry(after(policy.RETRY_MOST + 0.001), NOW)


def test_what_lies_ahead_happened_long_ago():
    assert policy.seconds_since(after(-7), NOW) == 7
    assert policy.seconds_since(after(0.5), NOW) == -0.5, "transactions overlap"
    assert policy.seconds_since(after(3600), NOW) == float("inf")


@pytest.mark.parametrize(
    ("crashes", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (5000, 60)]
)
def test_each_crash_doubles_the_wait_up_to_a_minute(crashes, seconds):
    assert policy.retry_delay(crashes) == seconds


def test_the_third_crash_in_a_row_is_beyond_the_budget():
    assert [policy.is_beyond_budget(crashes) for crashes in (1, 2, 3, 4)] == [False, False, True, True]
