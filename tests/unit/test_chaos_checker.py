"""The checker of the chaos harness finds each fault in a bad history, and none in a good one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos import checker, owners, takeovers, timing
from tests.chaos.history import Departure, Event, History, Injected, Leftover, Move, Sample, Sent
from tests.chaos.report import describe, judge, violated
from tests.unit.chaos_histories import answer, good, line, texts, told, user


def test_a_good_history_has_no_violation() -> None:
    verdicts = judge(good())
    assert [text for verdict in verdicts for text in texts(verdict)] == []
    assert not violated(verdicts)


def test_an_action_that_was_never_acknowledged_is_found() -> None:
    history = good()
    history.sent.append(Sent("c", "s", "client0", sends=3))
    assert texts(checker.check_acknowledged(history)) == ["c was never acknowledged in 3 sends"]


def test_an_acknowledged_action_that_is_not_in_the_log_is_found() -> None:
    history = good()
    history.sent.append(Sent("c", "s", "client0", 1, 9, acknowledged_at=1.0))
    assert texts(checker.check_lost(history)) == ["c was acknowledged as 9, where the log has None"]


def test_an_action_that_nobody_handled_is_found() -> None:
    history = good()
    history.events = [event for event in history.events if event.cause != 2]
    (text,) = texts(checker.check_lost(history))
    assert text.startswith("action 2 (b) was neither handled")


def test_an_interrupted_action_whose_sender_was_told_is_not_lost() -> None:
    history = good()
    history.events[3] = told(3, 2)
    assert texts(checker.check_lost(history)) == []


def test_an_action_that_is_stored_twice_is_found() -> None:
    history = good()
    history.events += [user(4, "b"), answer(5, 4, 3)]
    assert texts(checker.check_duplicated(history)) == ["b is in the log 2 times"]


@pytest.mark.parametrize(("runtime", "times", "found"), [("count", 2, 1), ("retry", 2, 0), ("retry", 3, 1)])
def test_an_action_that_was_handled_too_often_is_found(runtime: str, times: int, found: int) -> None:
    history = good()
    history.sessions = [replace(history.sessions[0], runtime=runtime)]
    history.lines += [line(1.21, "begin", 4 + 2 * i, 2) for i in range(times - 1)]
    assert len(checker.check_duplicated(history).violations) == found


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([answer(4, 2, 3)], "answered (3), answered (4)"),
        ([told(4, 2)], "answered (3), interrupted (4)"),
        ([told(4, 2, reason="crashed")], "answered (3), crashed (4)"),
        ([user(4, "c"), told(5, 4, reason="crashed"), told(6, 4)], "crashed (5), interrupted (6)"),
    ],
)
def test_an_action_with_several_outcomes_is_found(more: list[Event], words: str) -> None:
    history = good()
    history.events += more
    (text,) = texts(checker.check_duplicated(history))
    assert text.endswith(f"has several outcomes: {words}")


@pytest.mark.parametrize("reason", ["interrupted", "crashed"])
def test_an_action_that_is_begun_again_after_its_outcome_is_found_though_it_may_be_retried(
    reason: str,
) -> None:
    history = good()
    history.sessions = [replace(history.sessions[0], runtime="retry")]
    history.events += [user(4, "c"), told(5, 4, reason=reason, at=2.0)]
    history.lines += [line(1.8, "begin", 2, 4), line(1.9, "begin", 4, 4)]
    assert texts(checker.check_duplicated(history)) == []
    history.lines[-1] = line(2.1, "begin", 4, 4)
    assert texts(checker.check_duplicated(history)) == [
        f"action 4 was begun again after its outcome ({reason})"
    ]


def test_an_event_that_a_client_missed_is_found() -> None:
    history = good()
    del history.attachments[0].received[1]
    assert texts(checker.check_gaps(history)) == ["client0 got 2 after 0: a gap"]


def test_a_first_event_that_does_not_follow_the_cursor_is_a_gap() -> None:
    history = good()
    del history.attachments[0].received[0]
    assert texts(checker.check_gaps(history)) == ["client0 got 1 after -1: a gap"]


def test_a_client_that_did_not_get_to_the_end_is_found() -> None:
    history = good()
    del history.attachments[0].received[3]
    assert texts(checker.check_gaps(history)) == ["client0 ended at 2 of 3"]


def test_other_bytes_than_those_of_the_log_are_found() -> None:
    history = good()
    history.attachments[0].received[2] = (2, "text other", 1.1)
    assert texts(checker.check_gaps(history)) == ["client0 got another event 2 than the log has"]


def test_a_hole_in_the_log_is_found() -> None:
    history = good()
    history.attachments = []
    del history.events[1]
    assert texts(checker.check_gaps(history)) == ["the log is not dense"]


@pytest.mark.parametrize("again", [2, 3])
def test_an_event_that_came_again_or_late_is_found(again: int) -> None:
    history = good()
    history.attachments[0].received.append((again, f"text T{again}", 1.2))
    assert texts(checker.check_order(history)) == [f"client0 got {again} after 3"]


def test_a_clients_actions_that_changed_places_are_found() -> None:
    history = good()
    history.sent[0].order, history.sent[1].order = 2, 1
    assert len(checker.check_order(history).violations) == 1


def test_actions_that_are_handled_out_of_order_are_found() -> None:
    history = good()
    history.lines.append(line(1.3, "begin", 2, 1))
    assert texts(checker.check_order(history)) == ["action 1 was begun after 2"]


def test_an_old_snapshot_is_found() -> None:
    history = good()
    history.events[3] = answer(3, 2, 1)
    assert len(owners.check_state(history).violations) == 1


def test_an_interrupted_action_does_not_count_in_the_state() -> None:
    history = good()
    history.events += [user(4, "c"), told(5, 4), user(6, "d"), answer(7, 6, 3, epoch=6)]
    assert texts(owners.check_state(history)) == []


def test_a_write_of_an_older_epoch_is_found() -> None:
    history = good()
    history.events += [told(4, 2, epoch=5), answer(5, 2, 3, epoch=2)]
    assert texts(owners.check_stale_writes(history)) == ["event 5 was written under epoch 2, after 5"]


def test_a_move_of_an_older_epoch_is_found() -> None:
    history = good()
    history.moves.append(Move("s", 7.0, "passivated", "starting", "", "", 3))
    assert texts(owners.check_stale_writes(history)) == ["it became starting under epoch 3, after 4"]


def test_an_owner_that_goes_on_beside_its_successor_is_found() -> None:
    history = good()
    history.lines += [line(1.1, "start", 4, pid=11), line(1.3, "beat", 2)]
    (text,) = texts(owners.check_owners(history))
    assert text == "epoch 2 of pid 10 went on (beat, begin) for 0.20 s after its successor began"


def test_only_a_runtimes_own_code_may_run_on_just_after_its_process_was_resumed() -> None:
    history = good()
    history.lines[3] = line(1.2, "end", 2, 2)
    history.lines += [line(1.1, "start", 4, pid=11)]
    history.faults = [Injected("worker_pause", "worker0", 1.05, 1.15, 10)]
    assert texts(owners.check_owners(history)) == []
    history.lines += [line(1.3, "beat", 2)]
    assert len(owners.check_owners(history).violations) == 1


def kill_at(at: float, again_at: float | None) -> History:
    """Return the good history with its worker killed, and the session running again at the given time."""
    history = good()
    history.faults = [Injected("worker_kill", "worker0", at, at + 0.5, 10)]
    history.samples = [Sample(0.2 * i, "s", "running", 10, 1, False) for i in range(60)]
    if again_at is not None:
        history.moves.insert(2, Move("s", again_at, "starting", "running", "", "", 4))
    return history


@pytest.mark.parametrize(("again_at", "found"), [(7.9, 0), (8.1, 1), (None, 1)])
def test_a_takeover_that_came_late_or_never_is_found(again_at: float | None, found: int) -> None:
    history = kill_at(3.0, again_at)
    history.moves = [move for move in history.moves if move.target != "passivated"]
    assert len(takeovers.check_takeover(history).violations) == found


@pytest.mark.parametrize(
    ("others", "is_longer"),
    [
        ([("postgres_restart", "postgres")], True),
        ([("worker_pause", "worker1")], True),
        ([("worker_kill", "worker1")], False),
        ([("worker_kill", "worker1"), ("worker_drain", "worker2")], True),
        ([("gateway_kill", "gateway0"), ("redis_pause", "redis")], False),
    ],
)
def test_a_takeover_has_longer_when_nobody_could_do_it(
    others: list[tuple[str, str]], is_longer: bool
) -> None:
    history = kill_at(3.0, 8.1)
    history.moves = [move for move in history.moves if move.target != "passivated"]
    history.faults += [Injected(kind, target, 4.0, 6.0) for kind, target in others]
    assert texts(takeovers.check_takeover(history)) == (
        [] if is_longer else ["taken over 5.1 s after worker_kill of worker0 (limit 5.0 s)"]
    )


def test_a_takeover_has_longer_when_who_took_it_over_died_too() -> None:
    history = kill_at(3.0, 8.1)
    history.moves = [move for move in history.moves if move.target != "passivated"]
    history.moves += [
        Move("s", at, "running", "starting", "its worker is gone", "worker", 3) for at in (4.0, 7.0)
    ]
    history.faults.append(Injected("worker_kill", "worker1", 5.0, 5.5))
    assert texts(takeovers.check_takeover(history)) == []


@pytest.mark.parametrize(("moved_at", "found"), [(7.9, 0), (8.3, 1)])
def test_a_late_passivation_is_found(moved_at: float, found: int) -> None:
    history = good()
    history.moves = [replace(move, at=moved_at) for move in history.moves if move.target == "passivating"]
    history.samples = [Sample(0.2 * i, "s", "running", 10, int(0.2 * i < 5), False) for i in range(60)]
    assert len(timing.check_passivation(history).violations) == found


def test_an_event_that_came_late_is_found_unless_its_gateway_was_hit() -> None:
    history = good()
    history.attachments[0].received[3] = (3, "text T3", 4.5)
    assert len(timing.check_delivery(history).violations) == 1
    history.faults = [Injected("proxy_freeze", "proxy0", 2.0, 4.0)]
    assert texts(timing.check_delivery(history)) == []


def test_a_late_acknowledgement_is_found() -> None:
    history = good()
    history.sent[1].acknowledged_at = 4.1
    assert len(timing.check_answers(history).violations) == 1


def test_a_departure_that_nobody_noticed_is_found_unless_its_proxy_was_hit() -> None:
    history = good()
    history.departures = [
        Departure("client0", "s", "a", "proxy0", 5.0, 5.1),
        Departure("client1", "s", "b", "proxy0", 5.0, 7.1),
        Departure("client2", "s", "c", "proxy0", 5.0, None),
    ]
    assert len(timing.check_departures(history).violations) == 2
    history.faults = [Injected("proxy_freeze", "proxy0", 4.0, 6.0)]
    assert texts(timing.check_departures(history)) == []


@pytest.mark.parametrize(("kind", "found"), [("worker_drain", 1), ("worker_kill", 0)])
def test_an_action_that_an_orderly_stop_cut_off_is_found(kind: str, found: int) -> None:
    history = good()
    history.events[3] = told(3, 2)
    history.faults = [Injected(kind, "worker0", 0.9, 1.5, 10)]
    assert len(owners.check_drains(history).violations) == found


def test_an_error_in_a_log_is_found() -> None:
    history = good()
    history.logged_errors = {"ohsessions.gateway: lost": 2}
    assert texts(checker.check_logs(history)) == ["2 × ohsessions.gateway: lost"]


@pytest.mark.parametrize(("kind", "found"), [("end", 0), ("begin", 1)])
def test_after_it_was_resumed_a_process_ends_what_it_did_and_begins_nothing(kind: str, found: int) -> None:
    history = good()
    history.lines = [line(0.6, "start", 2), line(1.1, "start", 4, pid=11), line(1.2, kind, 2, 2)]
    history.faults = [Injected("worker_pause", "worker0", 1.05, 1.15, 10)]
    assert len(owners.check_owners(history).violations) == found


def test_what_is_left_and_what_went_wrong_is_found_and_reported() -> None:
    history = good()
    history.leftovers = [Leftover("process", "123 bash", "s")]
    history.troubles = ["worker0 exited by itself"]
    verdicts = judge(history)
    assert violated(verdicts)
    report = "\n".join(describe(history, verdicts))
    assert "FAILED  orphans                       1 × process" in report
    assert "troubles: worker0 exited by itself" in report
    assert "history of session s" in report
