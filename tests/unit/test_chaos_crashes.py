"""The checker of the chaos harness finds unexpected crashes and missing ones."""

from __future__ import annotations

import pytest

from tests.chaos import crashes, owners
from tests.chaos.actions import CRASH
from tests.chaos.history import History, Injected
from tests.chaos.report import judge
from tests.unit.chaos_histories import good, texts, told, user


def crashed(reason: str = "crashed") -> History:
    """Return the good history with a second action that broke the runtime."""
    history = good()
    history.events[2:] = [user(2, "b", kind=CRASH), told(3, 2, reason=reason)]
    return history


@pytest.mark.parametrize(("reason", "summary"), [("crashed", "1 as asked"), ("interrupted", "(1 cut off")])
def test_a_crash_that_was_asked_for_is_no_violation(reason: str, summary: str) -> None:
    assert [text for verdict in judge(crashed(reason)) for text in texts(verdict)] == []
    assert summary in crashes.check_crashes(crashed(reason)).summary


def test_an_answer_to_an_action_that_was_to_crash_is_found() -> None:
    history = crashed()
    history.events[3] = good().events[3]
    assert texts(crashes.check_crashes(history)) == ["action 2 (b) was to crash and was answered"]


@pytest.mark.parametrize(("cause", "where"), [(0, "action 0"), (None, "no action")])
def test_a_crash_that_nobody_asked_for_is_found(cause: int | None, where: str) -> None:
    history = crashed()
    history.events.append(told(4, cause, reason="crashed"))
    assert texts(crashes.check_crashes(history)) == [f"the runtime broke in {where}"]


def test_a_crash_is_not_blamed_on_a_drain() -> None:
    history = crashed()
    history.faults = [Injected("worker_drain", "worker0", 0.9, 1.5, 10)]
    assert texts(owners.check_drains(history)) == []
