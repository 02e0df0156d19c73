"""The heartbeat by itself: numbers and times, without an engine."""

import pytest

from ohsessions.socketio.errors import PacketError
from ohsessions.socketio.heartbeat import Heartbeat


@pytest.fixture
def heartbeat() -> Heartbeat:
    return Heartbeat(interval=10, timeout=4, now=100)


def test_the_first_ping_is_due_an_interval_after_the_start(heartbeat: Heartbeat) -> None:
    assert (heartbeat.awaits_pong, heartbeat.due) == (False, 110)


def test_a_ping_gives_the_client_the_timeout_and_its_pong_gives_us_the_interval(heartbeat: Heartbeat) -> None:
    heartbeat.ping(110)
    assert (heartbeat.awaits_pong, heartbeat.due) == (True, 114)
    heartbeat.pong(113)
    assert (heartbeat.awaits_pong, heartbeat.due) == (False, 123)


def test_the_nth_pong_answers_the_nth_ping(heartbeat: Heartbeat) -> None:
    assert [heartbeat.ping(110), heartbeat.ping(111)] == [1, 2]
    assert heartbeat.pong(112) == 1
    assert heartbeat.ping(112) == 3
    assert [heartbeat.pong(113), heartbeat.pong(113)] == [2, 3]


def test_the_timeout_runs_from_the_newest_ping(heartbeat: Heartbeat) -> None:
    heartbeat.ping(110)
    heartbeat.ping(113)
    assert heartbeat.due == 117


def test_a_pong_that_leaves_a_ping_unanswered_gives_the_timeout_for_it(heartbeat: Heartbeat) -> None:
    heartbeat.ping(110)
    heartbeat.ping(111)
    heartbeat.pong(112)
    assert (heartbeat.awaits_pong, heartbeat.due) == (True, 116)
    heartbeat.pong(113)
    assert (heartbeat.awaits_pong, heartbeat.due) == (False, 123)


def test_a_pong_that_is_not_owed_is_refused_and_changes_nothing(heartbeat: Heartbeat) -> None:
    with pytest.raises(PacketError):
        heartbeat.pong(101)
    assert (heartbeat.awaits_pong, heartbeat.due) == (False, 110)
    heartbeat.ping(110)
    heartbeat.pong(111)
    with pytest.raises(PacketError):
        heartbeat.pong(112)
    assert heartbeat.due == 121
    assert heartbeat.ping(121) == 2


def test_after_an_upgrade_a_client_that_owes_a_pong_has_the_timeout_anew(heartbeat: Heartbeat) -> None:
    heartbeat.ping(110)
    heartbeat.resume(113)
    assert (heartbeat.awaits_pong, heartbeat.due) == (True, 117)


def test_an_upgrade_does_not_delay_the_next_ping(heartbeat: Heartbeat) -> None:
    heartbeat.resume(109)
    assert (heartbeat.awaits_pong, heartbeat.due) == (False, 110)
