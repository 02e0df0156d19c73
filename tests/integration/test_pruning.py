"""Pruning deletes everything that the settings allow, keeps everything that is needed, and blocks nobody."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command

from ohsessions import journal, lifecycle, pruning, snapshots
from ohsessions.core.errors import ProcessGone
from ohsessions.database import database_now
from ohsessions.journal import Append
from ohsessions.models import Connection, Event, Link, Process, Session, Transition
from ohsessions.processes import leases
from ohsessions.pruning import TRANSITIONS_KEPT
from tests.integration.world import World, append, in_thread, init, log, observation, row_locked, session

DAY = 24 * 3600
FOR_EVER = {
    "EVENT_RETENTION": None,
    "EVENT_RETENTION_BYTES": None,
    "CONNECTION_RETENTION": None,
    "PROCESS_RETENTION": None,
    "TRANSITION_RETENTION": None,
    "CLOSED_RETENTION": None,
    "ANONYMOUS_RETENTION": None,
}


@pytest.fixture(autouse=True)
def _files(settings: Any, tmp_path: Any) -> None:
    settings.OHSESSIONS = {**settings.OHSESSIONS, "WORKSPACE_ROOT": str(tmp_path)}


def keep(settings: Any, **retentions: float | None) -> None:
    """Set all retentions to for ever, except the given ones."""
    settings.OHSESSIONS = settings.OHSESSIONS | FOR_EVER | retentions


def prune() -> dict[str, int]:
    """Prune everything, and return the number of deleted rows of each kind."""
    return {done.what: done.found for done in pruning.prune() if done.found}


def grow(session_id: UUID, epoch: int, count: int, text: str = "x") -> None:
    """Append `count` events of a session's runtime."""
    events = [observation(text, uuid4().hex) for _ in range(count)]
    assert append(Append(session_id, events, epoch=epoch)).numbers


def close(world: World) -> UUID:
    session_id, epoch = world.run()
    grow(session_id, epoch, 3)
    lifecycle.close(session_id, by="me")
    for sid in list(Connection.objects.filter(session=session_id).values_list("sid", flat=True)):
        lifecycle.detach(sid, "gone")
    return session_id


def asleep(world: World, *, owner: Any = None) -> UUID:
    session_id, epoch = world.run()
    world.sleep(session_id, epoch)
    Session.objects.filter(pk=session_id).update(owner=owner)
    return session_id


def rows() -> dict[str, set[Any]]:
    models = (Session, Connection, Event, Process, Transition)
    return {model.__name__: set(model.objects.values_list("pk", flat=True)) for model in models}


# Connections


def test_connections_are_deleted_so_long_after_their_end_and_open_ones_never(world: World, settings) -> None:
    keep(settings, CONNECTION_RETENTION=DAY)
    session_id, _ = world.run("open")
    world.attach(session_id, "old")
    world.attach(session_id, "new")
    lifecycle.detach("old", "gone")
    world.clock.advance(DAY - 10)
    lifecycle.detach("new", "gone")
    assert prune() == {}
    world.clock.advance(20)
    assert prune() == {"ended connections": 1}
    assert set(Connection.objects.values_list("sid", flat=True)) == {"open", "new"}


def test_more_rows_than_one_step_takes_are_deleted(world: World, settings, monkeypatch) -> None:
    monkeypatch.setattr(pruning, "STEP", 3)
    keep(settings, CONNECTION_RETENTION=60, TRANSITION_RETENTION=60)
    session_id, epoch = world.run("stays")
    for number in range(10):
        world.attach(session_id, f"c{number}")
        lifecycle.detach(f"c{number}", "gone")
    for _ in range(25):
        lifecycle.detach("stays", "gone")
        world.sleep(session_id, epoch)
        world.attach(session_id, "stays")
        epoch = world.claim(session_id)
        lifecycle.run(session_id, epoch)
    world.clock.advance(100)
    newest = list(Transition.objects.order_by("-pk")[:TRANSITIONS_KEPT])
    assert prune()["ended connections"] == 10
    left = list(Transition.objects.order_by("-pk"))
    assert left[:TRANSITIONS_KEPT] == newest
    assert len(left) < TRANSITIONS_KEPT + 5, "of those with the same time all stay"
    assert [row.sid for row in Connection.objects.all()] == ["stays"]


def test_what_somebody_has_locked_is_left_and_nobody_waits(world: World, settings, database: str) -> None:
    if database != "postgresql":
        pytest.skip("SQLite locks no rows")
    keep(settings, CLOSED_RETENTION=60, EVENT_RETENTION=60)
    locked = close(world)
    close(world)
    world.clock.advance(100)
    with row_locked(locked):
        prune()
        assert set(Session.objects.values_list("pk", flat=True)) == {locked}
        assert log(locked)
    prune()
    assert not Session.objects.exists()


def test_links_are_deleted_so_long_after_their_end(world: World, settings) -> None:
    keep(settings, CONNECTION_RETENTION=DAY)
    session_id, _ = world.run("a")
    now = database_now()

    def link(days: float, parent: Link | None = None) -> Link:
        end = now + timedelta(days=days)
        made = {"session_id": session_id, "role": "viewer", "created_at": now, "expires_at": end}
        return Link.objects.create(parent=parent, **made)

    parent = link(1)
    link(0.5, parent)
    later = link(3)
    Connection.objects.update(link=parent)
    world.clock.advance(2 * DAY + 10)
    assert prune() == {"ended links": 2}
    assert set(Link.objects.all()) == {later}
    assert Connection.objects.get().ended_at is None, "who used it is for the gateways to end"


# Transitions


def test_transitions_that_are_old_are_deleted_but_for_the_newest_of_each_session(
    world: World, settings
) -> None:
    keep(settings, TRANSITION_RETENTION=DAY)
    session_id, _ = world.run()
    quiet, _ = world.run()
    for number in range(TRANSITIONS_KEPT + 7):
        at = database_now() + timedelta(seconds=number)
        Transition.objects.create(session_id=session_id, target="running", reason=str(number), epoch=1, at=at)
    before = Transition.objects.filter(session=quiet).count()
    assert prune() == {}
    world.clock.advance(2 * DAY)
    prune()
    left = list(Transition.objects.filter(session=session_id).order_by("at").values_list("reason", flat=True))
    assert left == [str(number) for number in range(7, TRANSITIONS_KEPT + 7)]
    assert Transition.objects.filter(session=quiet).count() == before


# Processes


def test_processes_that_are_gone_are_deleted_when_no_row_names_them(world: World, settings) -> None:
    keep(settings, PROCESS_RETENTION=DAY)
    session_id, _ = world.run("a")
    unused = leases.register(Process.Kind.WORKER)
    for process in (world.gateway, world.worker, unused):
        leases.mark_gone(process)
    recent = leases.register(Process.Kind.WORKER)
    world.clock.advance(DAY + 10)
    leases.renew(recent, 0)
    leases.mark_gone(recent)
    alive = leases.register(Process.Kind.WORKER)
    assert prune() == {"gone processes": 1}
    assert set(rows()["Process"]) == {world.gateway, world.worker, recent, alive}
    # The process's sessions and connections can still be taken over.
    assert {row.pk for row in leases.gone_with_leftovers()} == {world.gateway, world.worker}
    assert lifecycle.hand_over(session_id, world.worker, "its worker is gone", died=True) is not None
    assert prune() == {"gone processes": 1}
    lifecycle.write_off(session_id, world.gateway, "gateway_lost")
    assert prune() == {}, "a connection that ended still names it"
    Connection.objects.all().delete()
    assert prune() == {"gone processes": 1}


def test_process_that_was_deleted_and_lives_finds_itself_gone(world: World, settings) -> None:
    keep(settings, PROCESS_RETENTION=60)
    paused = leases.register(Process.Kind.GATEWAY)
    leases.mark_gone(paused)
    world.clock.advance(100)
    assert prune() == {"gone processes": 1}
    with pytest.raises(ProcessGone):
        leases.renew(paused, 0)
    with pytest.raises(ProcessGone):
        lifecycle.open_session(lifecycle.Arrival("s", paused, world.user), init())


# Sessions


def test_closed_sessions_are_deleted_with_all_that_is_theirs(world: World, settings) -> None:
    settings.MEDIA_ROOT = settings.OHSESSIONS["WORKSPACE_ROOT"]
    keep(settings, CLOSED_RETENTION=DAY)
    kept, epoch = world.run()
    grow(kept, epoch, 3)
    before = rows()
    session_id = close(world)
    file = snapshots.store(session_id, "x" * 70_000).file
    Session.objects.filter(pk=session_id).update(snapshot_file=file)
    world.clock.advance(DAY - 10)
    assert prune() == {}
    world.clock.advance(20)
    assert prune() == {"sessions": 1}
    assert rows() == before


def test_closed_session_that_somebody_reads_is_deleted_when_they_have_left(world: World, settings) -> None:
    keep(settings, CLOSED_RETENTION=60)
    session_id = close(world)
    world.clock.advance(100)
    world.attach(session_id, "reader")
    assert prune() == {}
    assert log(session_id)
    lifecycle.detach("reader", "gone")
    assert prune() == {"sessions": 1}


def test_sessions_of_visitors_who_did_not_come_back_are_deleted_and_those_of_users_are_not(
    world: World, settings
) -> None:
    keep(settings, ANONYMOUS_RETENTION=DAY)
    owned, visitors = asleep(world, owner=world.user), asleep(world)
    awake, _ = world.run()
    Session.objects.filter(pk=awake).update(owner=None)
    world.clock.advance(DAY + 10)
    recent = asleep(world)
    assert prune() == {"sessions": 1}
    assert rows()["Session"] == {owned, awake, recent}
    assert visitors not in rows()["Session"]


def test_visitor_who_comes_back_in_time_keeps_everything(world: World, settings) -> None:
    keep(settings, ANONYMOUS_RETENTION=DAY)
    session_id = asleep(world)
    world.clock.advance(DAY + 10)
    Session.objects.filter(pk=session_id).update(owner=world.user)
    world.attach(session_id, "back")
    Session.objects.filter(pk=session_id).update(owner=None)
    before = log(session_id)
    assert lifecycle.discard(session_id, "a test") is False
    assert prune() == {}
    assert log(session_id) == before


@pytest.mark.parametrize("state", ["passivated", "failed"])
def test_nobody_wakes_a_session_whose_deletion_has_begun(world: World, settings, state: str) -> None:
    keep(settings, ANONYMOUS_RETENTION=DAY)
    session_id = asleep(world)
    Session.objects.filter(pk=session_id).update(state=state)
    world.clock.advance(DAY + 10)
    assert lifecycle.discard(session_id, "a test") is True
    assert session(session_id).state == "closed"
    assert lifecycle.discard(session_id, "a test") is True
    world.clock.advance(DAY + 10)
    assert prune() == {"sessions": 1}, "whoever began it may have died"


def test_long_log_is_deleted_in_many_small_transactions(world: World, settings, monkeypatch) -> None:
    monkeypatch.setattr("ohsessions.lifecycle.discards.STEP", 5)
    keep(settings, CLOSED_RETENTION=60)
    session_id, epoch = world.run("a")
    grow(session_id, epoch, 23)
    lifecycle.close(session_id, by="me")
    lifecycle.detach("a", "gone")
    world.clock.advance(100)
    left = [len(log(session_id))]
    while lifecycle.discard(session_id, "a test"):
        left.append(len(log(session_id)))
    assert all(before - after <= 5 for before, after in pairwise(left))
    assert not Session.objects.exists()


# Events


def test_events_are_trimmed_by_age_but_never_one_that_is_not_handled(world: World, settings) -> None:
    keep(settings, EVENT_RETENTION=DAY)
    session_id, epoch = world.run("a")
    handled = world.act(session_id, "a").numbers[0]
    pending = world.act(session_id, "a").numbers[0]
    events = [observation("done", "done")]
    append(Append(session_id, events, epoch=epoch, started=handled, handled=handled))
    grow(session_id, epoch, 5)
    world.clock.advance(DAY + 10)
    grow(session_id, epoch, 2)
    head = session(session_id).head
    assert prune() == {"events, by age": pending}
    assert [number for number, _ in log(session_id)] == list(range(pending, head + 1))
    append(Append(session_id, [], epoch=epoch, handled=pending))
    prune()
    assert [number for number, _ in log(session_id)] == [head - 1, head]
    assert world.attach(session_id, "b").first_number == head - 1


def test_log_is_trimmed_to_its_size_and_new_events_are_spared(world: World, settings) -> None:
    keep(settings, EVENT_RETENTION_BYTES=5000)
    session_id, epoch = world.run("a")
    small, _ = world.run()
    grow(session_id, epoch, 30, "x" * 500)
    assert prune() == {}, "who was not told that they are stored may send them again"
    world.clock.advance(70)
    prune()
    row = session(session_id)
    assert 3500 < row.log_bytes <= 5000
    data = list(Event.objects.filter(session=session_id).values_list("data", flat=True))
    assert row.log_bytes == sum(map(len, data))
    assert row.first_number == log(session_id)[0][0]
    assert row.head == log(session_id)[-1][0]
    assert log(small)
    assert prune() == {}


def test_size_of_a_log_is_counted_in_bytes_whoever_writes(world: World, settings) -> None:
    session_id, epoch = world.run("a")
    grow(session_id, epoch, 3, "größer 在")
    handled = world.act(session_id, "a", text="ä").numbers[0]
    append(Append(session_id, [], epoch=epoch, handled=handled))
    world.sleep(session_id, epoch)

    def stored() -> int:
        return sum(len(data.encode()) for data in Event.objects.values_list("data", flat=True))

    assert session(session_id).log_bytes == stored()
    journal.trim(session_id, 3)
    assert session(session_id).log_bytes == stored() > 0
    journal.trim(session_id, 2**40)
    append(Append(session_id, [], epoch=epoch))
    assert session(session_id).log_bytes == stored()


@pytest.mark.parametrize("pending", [True, False])
def test_trimming_to_a_size_never_passes_what_is_not_handled(world: World, settings, pending: bool) -> None:
    keep(settings, EVENT_RETENTION_BYTES=1024)
    session_id, epoch = world.run("a")
    first = world.act(session_id, "a").numbers[0]
    if not pending:
        append(Append(session_id, [], epoch=epoch, handled=first))
    grow(session_id, epoch, 10, "x" * 500)
    world.clock.advance(70)
    prune()
    assert (first in [number for number, _ in log(session_id)]) is pending


# Together


def test_many_prune_at_once_and_delete_the_same_as_one(world: World, settings) -> None:
    keep(settings, **dict.fromkeys(FOR_EVER, 60) | {"EVENT_RETENTION_BYTES": 1024})
    for _ in range(4):
        close(world)
        asleep(world)
    session_id, epoch = world.run("a")
    grow(session_id, epoch, 50, "x" * 100)
    world.clock.advance(1000)
    gone = [leases.register(Process.Kind.WORKER) for _ in range(5)]
    for process in gone:
        leases.mark_gone(process)
    world.clock.advance(1000)
    outcomes = [finished() for finished in [in_thread(prune) for _ in range(4)]]
    assert sum(outcome.get("gone processes", 0) for outcome in outcomes) == 5
    prune()
    assert rows()["Session"] == {session_id}
    assert rows()["Process"] == {world.gateway, world.worker}
    assert log(session_id) == []
    grow(session_id, epoch, 1)
    assert prune() == {}


def test_dry_run_deletes_nothing_and_says_what_would_be(world: World, settings) -> None:
    keep(settings, **dict.fromkeys(FOR_EVER, 60) | {"EVENT_RETENTION_BYTES": None})
    close(world)
    session_id, epoch = world.run("a")
    world.attach(session_id, "b")
    lifecycle.detach("b", "gone")
    grow(session_id, epoch, 5)
    handled = world.act(session_id, "a").numbers[0]
    append(Append(session_id, [], epoch=epoch, handled=handled))
    pending = world.act(session_id, "a").numbers[0]
    leases.mark_gone(leases.register(Process.Kind.WORKER))
    world.clock.advance(100)
    before, output = rows(), StringIO()
    call_command("ohsessions", "prune", "--dry-run", stdout=output)
    assert rows() == before
    said = dict(line.rsplit(": ", 1) for line in output.getvalue().splitlines() if ": " in line)
    assert said["sessions"] == "1"
    assert said["gone processes"] == "1"
    assert said["ended connections"] == "2"
    closed = Event.objects.exclude(session=session_id).count()
    assert said["events, by age"] == str(closed + pending)
    assert output.getvalue().endswith("Dry run: nothing was deleted\n")


def test_dry_run_counts_logs_that_are_too_large_and_not_their_events(world: World, settings) -> None:
    keep(settings, **dict.fromkeys(FOR_EVER, None) | {"EVENT_RETENTION_BYTES": 100})
    session_id, epoch = world.run("a")
    grow(session_id, epoch, 5)
    output = StringIO()
    call_command("ohsessions", "prune", "--dry-run", stdout=output)
    assert "logs that are too large: 1\n" in output.getvalue()


def test_command_prunes_what_the_settings_let_go_and_says_so(world: World, settings) -> None:
    keep(settings, CLOSED_RETENTION=60)
    close(world)
    world.clock.advance(100)
    output = StringIO()
    call_command("ohsessions", "prune", stdout=output)
    assert output.getvalue().splitlines()[0] == "sessions: 1"
    assert not Session.objects.exists()


def test_with_retentions_of_none_everything_is_kept(world: World, settings) -> None:
    keep(settings)
    close(world)
    asleep(world)
    leases.mark_gone(leases.register(Process.Kind.WORKER))
    world.clock.advance(100 * 365 * DAY)
    before = rows()
    assert prune() == {}
    assert rows() == before


def test_by_default_what_people_own_and_did_not_close_is_kept(world: World, settings) -> None:
    owned = asleep(world, owner=world.user)
    before = log(owned)
    world.clock.advance(100 * 365 * DAY)
    prune()
    assert log(owned) == before


def test_one_active_worker_prunes_for_all(world: World) -> None:
    others = [leases.register(Process.Kind.WORKER) for _ in range(5)]
    workers = {world.worker, *others}
    (first,) = [key for key in workers if pruning.is_first_worker(key)]
    leases.begin_drain(first)
    (second,) = [key for key in workers if pruning.is_first_worker(key)]
    assert second != first
