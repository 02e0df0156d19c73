"""The event log: numbers, keys, refusals; on both databases."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.files.storage import default_storage
from django.db import OperationalError, connection, connections, transaction

from ohsessions import journal, lifecycle, snapshots
from ohsessions.core.errors import StaleEpoch, WireError
from ohsessions.database import LATER
from ohsessions.journal import Append, NewEvent, batch, commit_appends
from ohsessions.models import Event
from ohsessions.snapshots import Snapshot
from tests.integration.world import (
    World,
    action,
    append,
    in_thread,
    log,
    observation,
    row_locked,
    session,
    snapshot,
)
from tests.requirements import wait_until


def reasons(results: list[object]) -> list[object]:
    """Return the numbers of stored appends, and the reasons or types of all others."""
    return [
        result.reason if isinstance(result, WireError) else getattr(result, "numbers", type(result))
        for result in results
    ]


def emit(session_id, epoch, *keys, **marks):
    return Append(session_id, [observation(f"for {key}", key) for key in keys], epoch=epoch, **marks)


def test_events_of_many_sessions_get_dense_numbers_each(world: World):
    sessions = [world.open().change.session_id for _ in range(3)]
    appends = [Append(pk, [action(), action()]) for pk in sessions for _ in range(2)]
    results = commit_appends(appends)
    assert [result.numbers for result in results] == [[0, 1], [2, 3]] * 3
    for pk in sessions:
        assert [number for number, _ in log(pk)] == [0, 1, 2, 3]
        assert session(pk).next_number == 4
        assert session(pk).last_action_number == 3


def test_an_event_is_stored_as_it_goes_over_the_wire(world: World):
    session_id, epoch = world.run()
    event = NewEvent("agent", "echo", '{"source":"agent","message":"","observation":"echo","content":"ä"}')
    stored = append(Append(session_id, [event], epoch=epoch)).stored
    data = (
        '{"id":2,"timestamp":"2026-01-01T00:00:00.000000+00:00",'
        '"source":"agent","message":"","observation":"echo","content":"ä"}'
    )
    assert stored == [(2, data)]
    assert journal.read_page(session_id, 1) == [(2, data)]


def test_a_repeated_key_gets_the_first_number_and_is_not_stored_again(world: World):
    session_id = world.open().change.session_id
    first = append(Append(session_id, [action(write_key="c:1")]))
    again = append(Append(session_id, [action(write_key="c:1")]))
    assert again.numbers == first.numbers == [0]
    assert again.stored == first.stored
    assert log(session_id) == [(0, "message")]
    assert session(session_id).next_number == 1


def test_a_key_repeated_within_one_batch_is_stored_once(world: World):
    session_id = world.open().change.session_id
    other = world.open().change.session_id
    one, two = (Append(session_id, [action(write_key="c:1")]) for _ in range(2))
    elsewhere = Append(other, [action(write_key="c:1"), action(write_key="c:1")])
    results = commit_appends([one, elsewhere, two])
    assert [result.numbers for result in results] == [[0], [0, 0], [0]]
    assert log(session_id) == log(other) == [(0, "message")]
    assert append(Append(session_id, [action(write_key="c:1"), action(write_key="c:2")])).numbers == [0, 1]
    assert append(Append(other, [action(write_key="c:3")])).numbers == [1]


@pytest.mark.parametrize("same_batch", [True, False])
def test_a_client_id_with_other_content_is_refused_alone(world: World, same_batch):
    session_id = world.open().change.session_id
    appends = [
        Append(session_id, [action("one", write_key="c:1")]),
        Append(session_id, [action("two", write_key="c:1")]),
        Append(session_id, [action("three", write_key="c:3")]),
    ]
    results = commit_appends(appends) if same_batch else [append(one) for one in appends]
    assert reasons(results) == [[0], "client_id_reused", [1]]
    assert len(log(session_id)) == 2


def test_an_append_of_which_one_event_is_refused_stores_nothing_and_moves_no_mark(world: World):
    session_id, epoch = world.run()
    append(emit(session_id, epoch, "known"))
    before, stored = session(session_id), log(session_id)
    other = observation("says something else", "known")
    refused = Append(session_id, [observation("new", "new"), other], epoch=epoch, handled=7)
    assert reasons([append(refused)]) == ["client_id_reused"]
    after = session(session_id)
    assert log(session_id) == stored
    assert (after.next_number, after.handled_number) == (before.next_number, before.handled_number)


def test_a_client_id_with_other_hidden_content_is_refused(world: World):
    session_id = world.open().change.session_id
    results = [
        append(Append(session_id, [action(write_key="c:1", hidden=hidden)]))
        for hidden in ('{"a":"secret"}', '{"a":"other"}', '{"a":"secret"}')
    ]
    assert reasons(results) == [[0], "client_id_reused", [0]]


def test_hidden_arguments_are_kept_encrypted_until_their_action_is_handled(world: World):
    session_id, epoch = world.run()
    args = {"hidden": True, "command": "export KEY=1234"}
    masked = '{"source":"user","message":"","action":"run","args":{"hidden":true,"command":""}}'
    appends = [
        Append(session_id, [action(kind="run", body=masked, hidden=json.dumps(args))]) for _ in range(2)
    ]
    commit_appends(appends)
    first, second = Event.objects.filter(session=session_id, kind="run").order_by("number")
    assert "1234" not in first.data + str(first.hidden_text)
    assert journal.read_action(session_id, first.number)[0].args == args
    append(Append(session_id, epoch=epoch, handled=first.number))
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.hidden_text is None
    assert second.hidden_text is not None, "it is still to be handled"
    assert journal.read_action(session_id, first.number)[0].args == {"hidden": True, "command": ""}
    append(Append(session_id, epoch=epoch, interrupted=second.number))
    second.refresh_from_db()
    assert second.hidden_text is None
    assert append(appends[0]).numbers == [first.number], "repeated when only its names can be compared"


def bad_body(database: str) -> str:
    """Return a body that the database, or the way to it, cannot take."""
    text = "\0" if database == "postgresql" else "\ud800"
    return '{"source":"user","message":"","action":"message","args":{"content":"' + text + '"}}'


def test_a_row_that_the_database_refuses_fails_alone(world: World, database: str):
    sessions = [world.open().change.session_id for _ in range(4)]
    appends = [Append(pk, [action(str(number))]) for number in range(5) for pk in sessions]
    appends[9] = Append(sessions[1], [action(body=bad_body(database))])
    results = commit_appends(appends)
    assert reasons(results)[9] == "not_json"
    assert [reason for reason in reasons(results) if isinstance(reason, str)] == ["not_json"]
    assert [len(log(pk)) for pk in sessions] == [5, 4, 5, 5]
    assert [number for number, _ in log(sessions[1])] == [0, 1, 2, 3]


def test_a_fault_of_the_database_is_nobodys_data(world: World, monkeypatch):
    """An error such as a deadlock or a time limit is independent of the event."""
    session_id, epoch = world.run()
    before = log(session_id)

    def fail(sessions: object) -> None:
        raise OperationalError("deadlock detected")

    with monkeypatch.context() as faulty:
        faulty.setattr(batch, "save_marks", fail)
        with pytest.raises(OperationalError):
            commit_appends([emit(session_id, epoch, key) for key in "ab"])
    assert log(session_id) == before


def test_nothing_of_a_runtime_overtakes_what_the_database_refused(world: World, database: str):
    session_id, epoch = world.run()
    other, other_epoch = world.run()
    bad = Append(session_id, [NewEvent("agent", "echo", bad_body(database))], epoch=epoch)
    results = commit_appends(
        [
            emit(session_id, epoch, "a"),
            bad,
            emit(session_id, epoch, "b"),
            emit(other, other_epoch, "c"),
            Append(session_id, [action()]),
            emit(session_id, epoch, "d"),
        ]
    )
    assert reasons(results) == [[2], "not_json", "internal", [2], [3], "internal"]


def test_a_stale_epoch_refuses_its_own_events_only(world: World):
    session_id, epoch = world.run()
    other, other_epoch = world.run()
    appends = [
        emit(session_id, epoch, "a"),
        emit(session_id, epoch - 1, "b", handled=5),
        emit(session_id, epoch + 1, "c"),
        emit(other, other_epoch, "d"),
        emit(uuid4(), 1, "e"),
    ]
    assert reasons(commit_appends(appends)) == [[2], StaleEpoch, StaleEpoch, [2], StaleEpoch]
    assert session(session_id).handled_number == -1


def test_an_action_needs_an_attached_connection_to_that_session(world: World):
    mine, other = world.open("a").change.session_id, world.open("b").change.session_id
    appends = [Append(mine, [action()], sid=sid) for sid in ("a", "b", "nobody")]
    appends.append(Append(uuid4(), [action()], sid="a"))
    assert reasons(commit_appends(appends)) == [[0], "not_attached", "not_attached", "unknown_session"]
    lifecycle.detach("a", "gone")
    assert reasons([world.act(mine, "a")]) == ["not_attached"]
    assert log(other) == []


def test_a_closed_session_takes_no_actions_but_knows_those_it_has(world: World):
    attached = world.open("a")
    session_id = attached.change.session_id
    assert world.act(session_id, "a", write_key="c:1").numbers == [0]
    lifecycle.close(session_id, by="me")
    results = [world.act(session_id, "a", write_key=key) for key in ("c:1", "c:2")]
    both = Append(session_id, [action(write_key=key) for key in ("c:1", "c:2")], sid="a")
    assert reasons([*results, append(both)]) == [[0], "session_closed", "session_closed"]


def test_a_failed_session_takes_no_actions(world: World):
    session_id = world.open("a").change.session_id
    for _ in range(3):
        world.clock.advance(60)
        lifecycle.crash(session_id, world.claim(session_id), "boom")
    assert reasons([world.act(session_id, "a")]) == ["session_failed"]


def test_starting_an_action_needs_a_running_session(world: World):
    session_id = world.open().change.session_id
    world.act(session_id)
    epoch = world.claim(session_id)
    assert reasons([append(Append(session_id, epoch=epoch, started=0))]) == [StaleEpoch]
    lifecycle.run(session_id, epoch)
    assert reasons([append(Append(session_id, epoch=epoch, started=0))]) == [[]]


def test_a_start_that_is_written_twice_counts_once_per_activation(world: World):
    session_id, epoch = world.run()
    number = world.act(session_id).numbers[0]
    for _ in range(2):  # again, as if the first answer had been lost
        append(Append(session_id, epoch=epoch, started=number))
    assert session(session_id).attempts == 1
    lifecycle.hand_over(session_id, world.worker, "gone")
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    append(Append(session_id, epoch=epoch, started=number))
    assert session(session_id).attempts == 2
    append(Append(session_id, epoch=epoch, started=world.act(session_id).numbers[0]))
    assert session(session_id).attempts == 1


def test_handled_and_interrupted_marks_never_fall(world: World):
    session_id, epoch = world.run()
    append(Append(session_id, epoch=epoch, handled=7, interrupted=9))
    append(Append(session_id, epoch=epoch, handled=3, interrupted=4))
    row = session(session_id)
    assert (row.handled_number, row.interrupted_number) == (7, 9)


def test_a_checkpoint_written_twice_keeps_its_file_and_a_newer_one_replaces_it(world: World):
    session_id, epoch = world.run()
    first, second = (snapshots.store(session_id, text * 100_000) for text in "ab")
    for _ in range(2):  # again, as if the first answer had been lost
        append(Append(session_id, epoch=epoch, checkpoint=first))
    assert snapshot(session_id) == "a" * 100_000
    append(Append(session_id, epoch=epoch, checkpoint=second))
    assert snapshot(session_id) == "b" * 100_000
    wait_until(lambda: not default_storage.exists(first.file), "the end of the first file")
    append(Append(session_id, epoch=epoch, checkpoint=Snapshot({"small": 1})))
    assert snapshot(session_id) == {"small": 1}
    wait_until(lambda: not default_storage.exists(second.file), "the end of the second file")


def test_a_checkpoint_that_was_rolled_back_deletes_nothing(world: World):
    session_id, epoch = world.run()
    first, second = (snapshots.store(session_id, text * 100_000) for text in "ab")
    append(Append(session_id, epoch=epoch, checkpoint=first))
    with transaction.atomic():
        append(Append(session_id, epoch=epoch, checkpoint=second))
        transaction.set_rollback(True)
    assert snapshot(session_id) == "a" * 100_000


def test_a_batch_takes_so_much_and_leaves_the_rest_in_order(world: World, monkeypatch):
    session_id, epoch = world.run()
    monkeypatch.setattr(batch, "MAX_EVENTS", 3)
    appends = [emit(session_id, epoch, f"{n}a", f"{n}b") for n in range(3)]
    results = commit_appends(appends)
    assert reasons(results)[0] == [2, 3]
    assert results[1:] == [LATER, LATER]
    large = emit(session_id, epoch, *"12345")
    assert reasons(commit_appends([large])) == [[4, 5, 6, 7, 8]], "one alone may have more"
    monkeypatch.setattr(batch, "MAX_CHARACTERS", 100)
    assert commit_appends(appends[1:])[1] is LATER


def test_pages_end_with_the_event_that_fills_them(world: World):
    session_id = world.open().change.session_id
    for _ in range(4):
        append(Append(session_id, [action("x" * 100_000)]))
    append(Append(session_id, [action() for _ in range(400)]))
    lengths, cursor = [], -1
    while page := journal.read_page(session_id, cursor):
        assert page[0][0] == cursor + 1
        cursor = page[-1][0]
        lengths.append(len(page))
    assert lengths == [3, 300, 101]


def test_a_page_takes_one_statement_and_no_cursor_that_outlives_it(
    world: World, monkeypatch, django_assert_num_queries
):
    """PgBouncer in transaction mode sends each statement to another server."""
    session_id = world.open().change.session_id
    append(Append(session_id, [action() for _ in range(400)]))
    if connection.vendor == "postgresql":
        monkeypatch.setattr(connections["default"], "chunked_cursor", None)
    with django_assert_num_queries(1):
        assert len(journal.read_page(session_id, -1)) == 300


def test_nothing_reads_through_a_cursor_of_the_server():
    """`iterator()` declares such a cursor on PostgreSQL; code that only SQLite runs may use it."""
    package = Path(journal.__file__).parents[1]
    found = [path.name for path in package.rglob("*.py") if ".iterator(" in path.read_text()]
    assert found == ["reading.py"]


def test_an_event_is_known_by_its_number_and_its_timestamp(world: World):
    session_id, other = world.open().change.session_id, world.open().change.session_id
    append(Append(session_id, [action("x" * 100_000)]))
    (stamped,) = [json.loads(data)["timestamp"] for _, data in journal.read_page(session_id, -1)]
    assert journal.has_event(session_id, 0, stamped)
    wrong = [stamped.replace("2026", "2025"), stamped[:-1], "", "%", "x" * 10**6]
    assert not any(journal.has_event(session_id, 0, said) for said in wrong)
    assert not journal.has_event(session_id, 1, stamped)
    assert not journal.has_event(other, 0, stamped)


def test_new_actions_are_those_of_clients_after_a_number(world: World):
    session_id, epoch = world.run()
    world.act(session_id)
    append(emit(session_id, epoch, "a"))
    append(Append(session_id, [action(kind="change_agent_state", waits=False)]))
    assert journal.new_actions(session_id, -1) == [(2, "message"), (4, "change_agent_state")]
    assert journal.new_actions(session_id, 2) == [(4, "change_agent_state")]
    row = session(session_id)
    assert (row.last_action_number, row.last_user_number) == (2, 4)


def test_heads_leave_out_sessions_that_are_no_more(world: World):
    session_id, _ = world.run()
    heads = journal.heads([session_id, uuid4()])
    assert [*heads] == [session_id]
    assert (heads[session_id].number, heads[session_id].state) == (1, "running")
    assert heads[session_id].worker == world.worker


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_session_locked_by_somebody_else_is_left_and_the_others_are_not(world: World):
    locked, free = world.open().change.session_id, world.open().change.session_id
    appends = [Append(pk, [action(write_key=key)]) for pk, key in ((locked, "1"), (free, "2"), (locked, "3"))]
    with row_locked(locked):
        first, second, third = commit_appends(appends)
        assert (first, third) == (LATER, LATER)
        assert second.numbers == [0]
        assert commit_appends([appends[0]]) == [LATER]
    assert reasons(commit_appends([appends[0], appends[2]])) == [[0], [1]]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_nothing_overtakes_an_append_whose_session_is_unlocked_while_the_batch_is_halved(
    world: World, database: str, monkeypatch
):
    locked, bad = world.open().change.session_id, world.open().change.session_id
    lock, locks = batch.Batch._lock, []

    def lock_beside_somebody(self: batch.Batch) -> None:
        """Lock the rows while somebody else holds one of them, until the first half is done."""
        locks.append(self)
        with row_locked(locked) if len(locks) < 3 else nullcontext():
            lock(self)

    monkeypatch.setattr(batch.Batch, "_lock", lock_beside_somebody)
    first, third = (Append(locked, [action(write_key=key)]) for key in ("1", "3"))
    results = commit_appends([first, Append(bad, [action(body=bad_body(database))]), third])
    assert len(locks) > 2
    assert [*map(type, results)] == [type(LATER), WireError, type(LATER)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_was_stored_before_the_session_was_locked_is_not_stored_again(world: World, monkeypatch):
    session_id = world.open().change.session_id
    lock, before = batch.Batch._lock, []
    repeated = Append(session_id, [action(write_key="c:1")])

    def lock_late(self: batch.Batch) -> None:
        monkeypatch.setattr(batch.Batch, "_lock", lock)
        before.append(in_thread(append, repeated)())
        lock(self)

    monkeypatch.setattr(batch.Batch, "_lock", lock_late)
    assert append(repeated).numbers == before[0].numbers == [0]
    assert log(session_id) == [(0, "message")]
