"""The observer of heartbeats: processes that stood still, and for how long by the observer's own clock."""

from __future__ import annotations

from uuid import uuid4

from ohsessions.processes.leases import Observer

A, B = uuid4(), uuid4()


def look(observer: Observer, start: float, end: float, counters, every: float = 0.5) -> list:
    """Look repeatedly, and return all results."""
    found, now = [], start
    while now <= end:
        found += observer.observe(counters(now), now)
        now += every
    return found


def test_a_counter_that_stands_still_for_the_lease_is_expired():
    observer = Observer(10)
    assert look(observer, 0, 9.5, lambda now: [(A, 3)]) == []
    assert observer.observe([(A, 3)], 10.0) == [(A, 3)]


def test_a_counter_that_moves_never_expires():
    assert look(Observer(10), 0, 100, lambda now: [(A, int(now / 9))]) == []


def test_each_process_has_its_own_count():
    found = look(Observer(10), 0, 12, lambda now: [(A, int(now)), *([(B, 1)] if now >= 1 else [])])
    assert set(found) == {(B, 1)}


def test_counting_begins_again_after_a_gap_in_the_looks():
    """After an outage of the database, no process is reaped because it could not renew during the outage."""
    observer = Observer(10)
    look(observer, 0, 9, lambda now: [(A, 3)])
    assert observer.observe([(A, 3)], 60.0) == []
    assert look(observer, 60.5, 69.5, lambda now: [(A, 3)]) == []
    assert observer.observe([(A, 3)], 70.0) == [(A, 3)]


def test_looks_one_second_apart_are_close_enough():
    assert look(Observer(10), 0, 10, lambda now: [(A, 3)], every=1.0) == [(A, 3)]
    assert look(Observer(10), 0, 30, lambda now: [(A, 3)], every=1.1) == []


def test_a_process_that_comes_back_is_counted_anew():
    observer = Observer(10)
    look(observer, 0, 6, lambda now: [(A, 3)])
    look(observer, 6.5, 7, lambda now: [])
    assert look(observer, 7.5, 17, lambda now: [(A, 3)]) == []
