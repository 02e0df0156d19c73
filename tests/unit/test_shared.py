"""Simultaneous requests share one answer, which is found once."""

from __future__ import annotations

import threading

import pytest

from ohsessions.concurrency.shared import Shared
from ohsessions.core.clock import FakeClock
from tests.requirements import wait_until


def test_those_who_ask_while_it_is_being_found_wait_for_the_one_answer():
    asked, may_answer, answers = [], threading.Event(), []

    def find() -> int:
        asked.append(1)
        assert may_answer.wait(20)
        return len(asked)

    shared = Shared(find, 60)
    threads = [threading.Thread(target=lambda: answers.append(shared.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: asked, "somebody looking")
    may_answer.set()
    for thread in threads:
        thread.join(20)
    assert (answers, len(asked)) == ([1] * 8, 1)


def test_an_answer_is_kept_for_its_time_and_found_anew_after_it():
    clock = FakeClock()
    numbers = iter(range(10))
    shared = Shared(lambda: next(numbers), 1.0, clock)
    assert [shared.get(), shared.get()] == [0, 0]
    clock.advance(0.99)
    assert shared.get() == 0
    clock.advance(0.02)
    assert [shared.get(), shared.get()] == [1, 1]


def test_a_failure_is_raised_to_who_asked_and_is_not_kept():
    outcomes = iter([ValueError("no"), 7])

    def find() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shared = Shared(find, 60)
    with pytest.raises(ValueError, match="no"):
        shared.get()
    assert shared.get() == 7
