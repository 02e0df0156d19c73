"""The barrier by itself: sizes and times, without an engine."""

import pytest

from ohsessions.socketio.barrier import Barrier
from ohsessions.socketio.settings import EngineSettings


def make(*, first_payload: int | None = None, first_barrier_bytes: int = 400) -> Barrier:
    settings = EngineSettings(
        barrier_bytes=1000,
        barrier_timeout=60,
        backlog_bytes=2000,
        first_payload=first_payload,
        first_barrier_bytes=first_barrier_bytes,
    )
    return Barrier(settings)


@pytest.fixture
def barrier() -> Barrier:
    return make()


def raised(ping: int | None) -> Barrier:
    """Return a barrier that has been up since 100 because of 1000 bytes."""
    barrier = make()
    assert barrier.count(1000)
    barrier.raise_for(100, ping)
    return barrier


def test_the_barrier_is_needed_when_so_many_bytes_are_unconfirmed(barrier: Barrier) -> None:
    assert not barrier.count(999)
    assert barrier.count(1)
    assert barrier.due is None, "the caller raises it"


def test_a_ping_may_come_late_behind_a_quarter_of_these_bytes(barrier: Barrier) -> None:
    barrier.count(249)
    assert not barrier.delays_ping
    barrier.count(1)
    assert barrier.delays_ping


# -- until the application knows the client


def test_an_unknown_client_may_have_less_unread_until_it_is_known() -> None:
    barrier = make(first_payload=1)
    assert not barrier.count(399)
    assert barrier.count(1)
    barrier.widen()
    assert not barrier.count(599)
    assert barrier.count(1)


def test_an_unknown_client_never_may_have_more_unread_than_a_known_one() -> None:
    barrier = make(first_payload=1, first_barrier_bytes=5000)
    assert not barrier.count(999)
    assert barrier.count(1)


# -- on a websocket


def test_the_pong_of_its_ping_lifts_the_barrier_and_confirms_what_was_before() -> None:
    barrier = raised(ping=7)
    assert not barrier.pong(7)
    assert barrier.due is None
    assert not barrier.count(999)
    assert barrier.count(1)


def test_the_pong_of_an_earlier_ping_does_not_lift_the_barrier() -> None:
    barrier = raised(ping=7)
    assert not barrier.pong(6)
    assert barrier.due == 160
    assert not barrier.pong(8)
    assert barrier.due is None


def test_what_was_queued_behind_the_ping_is_not_confirmed_by_its_pong() -> None:
    barrier = raised(ping=1)
    assert not barrier.count(999)
    assert not barrier.pong(1)
    assert barrier.count(1)
    barrier.raise_for(101, 2)
    assert not barrier.count(1000)
    assert barrier.pong(2), "this needs the next barrier at once"


@pytest.mark.parametrize("barrier", [make(), raised(ping=1)], ids=["never up", "lifted"])
def test_a_pong_without_a_barrier_changes_nothing(barrier: Barrier) -> None:
    barrier.pong(1)
    barrier.count(999)
    assert not barrier.pong(2)
    assert barrier.count(1)
    assert not barrier.pong(3)


# -- in polling


def test_in_polling_no_pong_lifts_the_barrier() -> None:
    barrier = raised(ping=None)
    assert not barrier.pong(1)
    assert barrier.due == 160


def test_a_get_confirms_the_answer_to_the_get_before_and_no_more() -> None:
    barrier = raised(ping=None)
    barrier.count(500)
    barrier.take(600)
    assert not barrier.poll()
    assert barrier.due is None
    assert not barrier.count(99)
    assert barrier.count(1)


def test_an_answer_is_confirmed_once() -> None:
    barrier = raised(ping=None)
    barrier.take(1)
    assert not barrier.poll()
    assert not barrier.poll()
    assert barrier.count(1)


def test_a_get_that_leaves_much_unconfirmed_needs_the_next_barrier() -> None:
    barrier = raised(ping=None)
    barrier.count(500)
    barrier.take(500)
    assert barrier.poll()


# -- upgrades


def test_an_upgrade_confirms_all_that_is_not_queued() -> None:
    barrier = raised(ping=None)
    assert not barrier.upgrade(999)
    assert barrier.due is None
    assert barrier.count(1)


def test_an_upgrade_with_much_queued_needs_the_next_barrier() -> None:
    assert raised(ping=None).upgrade(1000)


def test_after_an_upgrade_that_failed_the_client_has_the_time_anew(barrier: Barrier) -> None:
    barrier.extend(100)
    assert barrier.due is None, "there is no barrier to extend"
    barrier = raised(ping=None)
    barrier.extend(130)
    assert barrier.due == 190


# -- slow clients


def test_the_client_is_slow_when_the_barrier_is_up_for_the_timeout() -> None:
    assert raised(ping=1).due == 160


@pytest.mark.parametrize("ping", [1, None])
def test_the_client_is_slow_when_more_than_the_backlog_is_queued_meanwhile(ping: int | None) -> None:
    barrier = raised(ping)
    assert not barrier.count(2000)
    assert barrier.count(1)


def test_the_backlog_is_counted_anew_for_each_barrier() -> None:
    barrier = raised(ping=1)
    barrier.count(2000)
    assert barrier.pong(1)
    barrier.raise_for(110, 2)
    assert not barrier.count(2000)
    assert barrier.count(1)
