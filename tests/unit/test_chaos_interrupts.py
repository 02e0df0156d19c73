"""The checker of the chaos harness finds interrupts that were lost, doubled, misplaced or late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos import checker, interrupts
from tests.chaos.actions import INTERRUPT
from tests.chaos.history import History, Injected, Sent
from tests.chaos.report import judge
from tests.unit.chaos_histories import good, line, texts, user


def interrupted() -> History:
    """Return the good history with an interrupt during the second action."""
    history = good()
    history.events.append(user(4, "i", 1.2, kind=INTERRUPT))
    history.sessions = [replace(history.sessions[0], head=4)]
    history.attachments[0].received.append((4, "text T4", 1.3))
    history.sent.append(Sent("i", "s", "client0", 1, 4, 1.2, "proxy0", 1.3, 0, 3, kind=INTERRUPT))
    history.lines.insert(4, line(1.22, "interrupt", 2, 4))
    return history


def test_an_interrupt_that_was_delivered_needs_no_answer() -> None:
    assert [text for verdict in judge(interrupted()) for text in texts(verdict)] == []
    verdict = interrupts.check_interrupts(interrupted())
    assert verdict.summary == "0, 1 delivered (1 amid an action, 0 again to a later owner)"


def test_an_interrupt_that_was_never_delivered_is_found() -> None:
    history = interrupted()
    del history.lines[4]
    assert texts(interrupts.check_interrupts(history)) == ["interrupt 4 (i) was never delivered"]


def test_an_acknowledged_interrupt_that_is_not_in_the_log_is_found() -> None:
    history = interrupted()
    del history.events[4]
    assert texts(checker.check_lost(history)) == ["i was acknowledged as 4, where the log has None"]
    assert texts(interrupts.check_interrupts(history)) == [
        "event 4 was delivered as an interrupt, which it is not"
    ]


@pytest.mark.parametrize(("epoch", "found"), [(2, 1), (4, 0)])
def test_an_interrupt_may_come_again_to_another_owner_only(epoch: int, found: int) -> None:
    history = interrupted()
    history.lines.append(line(1.23, "interrupt", epoch, 4))
    assert len(interrupts.check_interrupts(history).violations) == found


def test_an_interrupt_that_comes_after_a_later_action_was_begun_is_found() -> None:
    history = interrupted()
    history.lines.insert(4, line(1.21, "begin", 2, 5))
    assert texts(interrupts.check_interrupts(history)) == [
        "interrupt 4 was delivered after 5, to the same owner"
    ]


def test_an_interrupt_that_is_marked_as_a_handled_action_is_found() -> None:
    history = interrupted()
    history.sessions = [replace(history.sessions[0], handled_number=4)]
    assert texts(interrupts.check_interrupts(history)) == ["the interrupt 4 was marked as a handled action"]


def test_a_late_interrupt_is_found_unless_its_worker_was_hit_or_its_owner_is_a_new_one() -> None:
    history = interrupted()
    history.lines[4] = line(4.3, "interrupt", 2, 4)
    assert texts(interrupts.check_interrupt_times(history)) == [
        "interrupt 4 was delivered 3.1 s after its commit"
    ]
    history.faults = [Injected("worker_pause", "worker0", 2.0, 4.0, 10)]
    assert texts(interrupts.check_interrupt_times(history)) == []
    history.faults = []
    history.lines[0] = line(1.21, "start", 2)
    assert texts(interrupts.check_interrupt_times(history)) == []
