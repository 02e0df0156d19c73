"""Lives of sessions and the events that may disturb them: races, crashes, revoked tokens, operators."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import product
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.files.storage import default_storage
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from ohsessions import Runtime, access, lifecycle, snapshots
from ohsessions.core import policy
from ohsessions.core.errors import IllegalTransition, ProcessGone, StaleEpoch, Unavailable, WireError
from ohsessions.core.states import AWAKE
from ohsessions.database import database_now
from ohsessions.journal import Append
from ohsessions.lifecycle import sweeps
from ohsessions.models import Connection, Event, Process, Session, Transition
from ohsessions.processes import leases
from tests.integration.world import (
    World,
    action,
    append,
    in_thread,
    init,
    log,
    session,
    sids,
    snapshot,
    wait_for_lock_waiters,
)
from tests.requirements import wait_until


@pytest.fixture(autouse=True)
def _settings(settings):
    settings.OHSESSIONS = {**settings.OHSESSIONS, "CLOSE_DELAY": 15, "MAX_BUSY": 100}


def due_in(session_id, world) -> float | None:
    at = session(session_id).passivate_at
    return None if at is None else (at - world.clock.now()).total_seconds()


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(WireError) as caught:
        call(*args, **kwargs)
    return caught.value.reason


def states(session_id) -> list[str]:
    return list(Transition.objects.filter(session=session_id).order_by("pk").values_list("target", flat=True))


def test_a_whole_life_leaves_its_traces(world: World):
    session_id, epoch = world.run("a")
    assert world.act(session_id, "a").numbers == [2]
    append(Append(session_id, epoch=epoch, started=2))
    append(Append(session_id, epoch=epoch, handled=2))
    change = world.sleep(session_id, epoch)
    assert (change.state, change.worker, change.former) == ("passivated", None, world.worker)
    world.attach(session_id, "a")
    lifecycle.run(session_id, world.claim(session_id))
    lifecycle.close(session_id, by="me")
    rows = Transition.objects.filter(session=session_id).order_by("pk")
    assert list(rows.values_list("origin", "target", "by", "epoch")) == [
        ("", "starting", f"user {world.user.username}", 1),
        ("starting", "running", f"worker {world.worker}", 2),
        ("running", "passivating", f"worker {world.worker}", 3),
        ("passivating", "passivated", f"worker {world.worker}", 4),
        ("passivated", "starting", f"user {world.user.username}", 5),
        ("starting", "running", f"worker {world.worker}", 6),
        ("running", "closed", "me", 7),
    ]
    changes = Event.objects.filter(session=session_id, kind="agent_state_changed").order_by("number")
    told = [json.loads(event.data)["extras"]["agent_state"] for event in changes]
    assert told == ["loading", "init", "stopped", "loading", "init", "stopped"]


# Opening


def test_a_session_starts_in_few_queries(world: World, django_assert_max_num_queries):
    with django_assert_max_num_queries(11):  # two of them for the quota
        world.open()


def test_the_same_init_within_ten_minutes_gives_the_same_session(world: World):
    first = world.open("a", client_id="x" * 16)
    world.clock.advance(599)
    again = world.open("b", client_id="x" * 16)
    assert again.change.session_id == first.change.session_id
    assert sorted(sids(first.change.session_id)) == ["a", "b"]
    world.clock.advance(2)
    assert world.open("c", client_id="x" * 16).change.session_id != first.change.session_id


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_same_init_twice_at_once_gives_the_same_session(world: World):
    with transaction.atomic():
        first = world.open("a", client_id="x" * 16)
        other = in_thread(world.open, "b", client_id="x" * 16)
        wait_for_lock_waiters()
    session_id = first.change.session_id
    assert other().change.session_id == session_id
    assert sorted(sids(session_id)) == ["a", "b"]
    assert Session.objects.count() == 1


def test_the_same_client_id_of_somebody_else_gives_another_session(world: World):
    first = world.open(client_id="x" * 16)
    stranger = get_user_model().objects.create_user("stranger")
    socket = lifecycle.Arrival(sid="s", gateway=world.gateway, user=stranger)
    second = lifecycle.open_session(socket, init(client_id="x" * 16))
    assert second.change.session_id != first.change.session_id


def test_a_refused_init_changes_nothing(world: World):
    stranger = lifecycle.Arrival(sid="s", gateway=world.gateway, user=AnonymousUser())
    assert refused(lifecycle.open_session, stranger, init()) == "login_required"
    assert refused(world.open, args={"runtime": "none"}) == "unknown_runtime"
    assert refused(world.attach, uuid4()) == "unknown_session"
    session_id = world.open("a").change.session_id
    assert refused(world.attach, session_id, "a", token="forged") == "invalid_token"
    assert refused(lifecycle.attach, stranger, init(), session_id) == "unknown_session"
    assert Session.objects.count() == 1
    assert sids(session_id) == ["a"]


def test_secrets_of_an_init_are_stored_encrypted_only(world: World):
    opened = world.open(args={"LLM_API_KEY": "sk-1", "MAX_INPUT_TOKENS": 4096}, github_token="gh-1")
    row = session(opened.change.session_id)
    assert row.settings == {"max_input_tokens": 4096}
    assert "sk-1" not in row.secrets
    won = lifecycle.claim(row.pk, world.worker)
    assert won is not None
    assert won[0].secrets == row.secrets


class Declaring(Runtime):
    secret_settings = ("PIN", "camera.stream")


def test_settings_that_a_runtime_declares_are_stored_encrypted_only(world: World, settings):
    entry = {"BACKEND": f"{__name__}.Declaring"}
    settings.OHSESSIONS = {**settings.OHSESSIONS, "RUNTIMES": {"door": entry}}
    opened = world.open(args={"Pin": 1234, "camera": {"stream": "s-1", "pin": "p-2", "name": "n"}, "a": 1})
    row = session(opened.change.session_id)
    assert row.settings == {"camera": {"name": "n"}, "a": 1}
    assert json.loads(access.decrypt(row.secrets)) == {
        "pin": "1234",
        "camera.stream": "s-1",
        "camera.pin": "p-2",
    }


@pytest.mark.parametrize("call", ["open", "attach"])
def test_a_gateway_that_is_gone_may_not_attach(world: World, call):
    session_id = world.open().change.session_id
    leases.mark_gone(world.gateway)
    with pytest.raises(ProcessGone):
        world.open("late") if call == "open" else world.attach(session_id, "late")
    assert Session.objects.count() == 1
    assert not Connection.objects.filter(sid="late").exists()


def test_a_gateway_that_drains_serves_on(world: World):
    leases.begin_drain(world.gateway)
    assert sids(world.open("a").change.session_id) == ["a"]


# Attaching and detaching


def test_only_who_says_the_timestamp_of_the_last_event_costs_a_query_more(
    world: World, django_assert_num_queries
):
    session_id, _ = world.run("a")
    stamped = json.loads(Event.objects.get(session=session_id, number=1).data)["timestamp"]
    with CaptureQueriesContext(connection) as queries:
        assert not world.attach(session_id, "b", latest_event_id=1).resets
    for extra, position in (
        (0, {}),
        (0, {"latest_event_id": 7, "latest_event_timestamp": stamped}),
        (0, {"latest_event_id": -1, "latest_event_timestamp": stamped}),
        (1, {"latest_event_id": 1, "latest_event_timestamp": stamped}),
    ):
        with django_assert_num_queries(len(queries) + extra):
            attached = world.attach(session_id, uuid4().hex, **position)
        assert attached.resets == (position.get("latest_event_id") == 7)


def test_the_last_detach_starts_the_close_delay_and_an_attach_clears_it(world: World):
    session_id, _ = world.run("a")
    world.attach(session_id, "b")
    lifecycle.detach("a", "gone", sent_number=1)
    assert due_in(session_id, world) is None
    lifecycle.detach("b", "gone")
    assert due_in(session_id, world) == 15
    assert lifecycle.detach("b", "gone") is None
    world.attach(session_id, "c")
    assert due_in(session_id, world) is None
    row = Connection.objects.get(sid="a")
    assert (row.end_reason, row.sent_number, row.ended_at) == ("gone", 1, world.clock.now())


def test_leaving_keeps_the_connection_and_it_may_come_back(world: World):
    session_id, _ = world.run("a")
    lifecycle.detach("a", "left", leave=True)
    assert Connection.objects.get(sid="a").ended_at is None
    assert due_in(session_id, world) == 15
    world.attach(session_id, "a")
    assert sids(session_id) == ["a"]


def test_who_attaches_elsewhere_leaves_what_the_row_says(world: World):
    """The client's row decides, not its gateway: the answer to the first attach may have been lost."""
    first, _ = world.run("a")
    second, _ = world.run("b")
    moved = world.attach(second, "a")
    assert moved.left is not None
    assert moved.left.session_id == first
    assert due_in(first, world) == 15
    opened = world.open("a")
    assert opened.left is not None
    assert opened.left.session_id == second
    assert due_in(second, world) is None, "b is still there"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_two_last_disconnects_at_once_make_the_session_due(world: World):
    session_id, _ = world.run("a")
    world.attach(session_id, "b")
    with transaction.atomic():
        lifecycle.detach("a", "gone")
        other = in_thread(lifecycle.detach, "b", "gone")
        wait_for_lock_waiters()  # the other thread has begun, and must not count the rows that it sees now
    assert other() is not None
    assert due_in(session_id, world) == 15


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_two_connections_that_swap_sessions_at_once_do_not_wait_for_each_other(world: World):
    first, _ = world.run("a")
    second, _ = world.run("b")
    low, high = sorted([(first, "a"), (second, "b")])
    later = world.clock.now() + timedelta(seconds=1)
    Session.objects.filter(pk=high[0]).update(active_at=later)  # the table's own order differs
    with transaction.atomic():
        Session.objects.select_for_update().get(pk=low[0])
        others = [in_thread(world.attach, high[0], low[1]), in_thread(world.attach, low[0], high[1])]
        wait_for_lock_waiters(2)
        # Neither thread holds the higher row while it waits for the lower one.
        Session.objects.select_for_update(nowait=True).get(pk=high[0])
    for other in others:
        other()
    assert (sids(low[0]), sids(high[0])) == ([high[1]], [low[1]])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_changes_while_it_is_moved_is_not_moved(world: World):
    first, _ = world.run("a")
    second, _ = world.run("b")
    with transaction.atomic():
        lifecycle.detach("a", "left", leave=True)
        other = in_thread(world.attach, second, "a")
        wait_for_lock_waiters()
    with pytest.raises(Unavailable):
        other()
    assert (sids(first), sids(second)) == ([], ["b"])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_connection_that_is_moved_while_it_is_detached_is_not_ended_unheard_by_its_new_session(
    world: World,
):
    first, _ = world.run("a")
    second, _ = world.run("b")
    with transaction.atomic():
        world.attach(second, "a")
        other = in_thread(lifecycle.detach, "a", "gone")
        wait_for_lock_waiters()
    assert other() is None
    assert sorted(sids(second)) == ["a", "b"]
    assert due_in(first, world) == 15


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_who_has_waited_for_a_lock_goes_by_the_time_at_which_it_got_it(world: World):
    session_id, _ = world.run("a")
    with transaction.atomic():
        Session.objects.select_for_update().get(pk=session_id)
        other = in_thread(lifecycle.detach, "a", "gone")
        wait_for_lock_waiters()
        world.clock.advance(5)
    other()
    assert due_in(session_id, world) == 15


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_of_two_ends_of_one_connection_the_first_counts(world: World):
    session_id, _ = world.run("a")
    with transaction.atomic():
        lifecycle.force_passivation(session_id, by="op")
        other = in_thread(lifecycle.detach, "a", "gone")
        wait_for_lock_waiters()
    assert other() is None
    assert lifecycle.end_reasons(["a"]) == {"a": "operator"}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_token_that_is_revoked_during_an_attach_is_refused(world: World):
    opened = world.open("a")
    with transaction.atomic():
        Session.objects.filter(pk=opened.change.session_id).update(token_version=2)
        other = in_thread(world.attach, opened.change.session_id, "b", token=opened.token)
        wait_for_lock_waiters()
    assert refused(other) == "invalid_token"
    assert sids(opened.change.session_id) == ["a"]


def test_a_token_of_before_a_revocation_is_refused_and_its_connections_end(world: World):
    opened = world.open("a")
    session_id = opened.change.session_id
    Session.objects.filter(pk=session_id).update(token_version=2)
    stranger = lifecycle.Arrival(sid="s", gateway=world.gateway, user=AnonymousUser())
    assert refused(lifecycle.attach, stranger, init(token=opened.token)) == "invalid_token"
    again = world.attach(session_id, "b")
    assert lifecycle.strays() == [session_id]
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert change.ended
    assert lifecycle.end_reasons(["a", "b"]) == {"a": "revoked"}
    assert lifecycle.strays() == []
    lifecycle.attach(stranger, init(token=again.token))
    assert sorted(sids(session_id)) == ["b", "s"], "a token of after it is valid"


def test_a_running_session_whose_last_connection_is_revoked_falls_due_and_keeps_its_owner(world: World):
    session_id, epoch = world.run("a")
    Session.objects.filter(pk=session_id).update(token_version=2)
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert (change.state, change.worker, change.epoch, change.ended) == ("running", world.worker, epoch, True)
    assert due_in(session_id, world) == 15


def test_a_gateways_connections_are_written_off_session_by_session(world: World):
    session_id, _ = world.run("a")
    world.attach(session_id, "b")
    gone, world.gateway = world.gateway, leases.register("gateway")
    world.attach(session_id, "c")
    assert lifecycle.open_connections(gone) == {"a": session_id, "b": session_id}
    change = lifecycle.write_off(session_id, gone, "gateway_lost")
    assert change is not None
    assert sids(session_id) == ["c"]
    assert due_in(session_id, world) is None
    assert lifecycle.write_off(session_id, gone, "gateway_lost") is None
    lifecycle.write_off(session_id, world.gateway, "gateway_lost")
    assert due_in(session_id, world) == 15


def test_a_gateway_is_told_of_its_own_revoked_connections_only(world: World):
    session_id, _ = world.run("a")
    gateway, world.gateway = world.gateway, leases.register("gateway")
    world.attach(session_id, "elsewhere")
    Session.objects.update(token_version=2)
    world.attach(session_id, "new")
    assert (lifecycle.revoked(gateway), lifecycle.revoked(world.gateway)) == ({"a"}, {"elsewhere"})


def test_presence_counts_connections_and_names_users(world: World):
    session_id, _ = world.run("a")
    world.attach(session_id, "b")
    world.attach(session_id, "c")
    lifecycle.detach("c", "gone")
    assert lifecycle.presence(session_id) == (2, [world.user.username])


# Owning


def test_of_two_workers_one_gets_the_session(world: World):
    session_id = world.open().change.session_id
    other = leases.register("worker")
    assert [pk for pk, _ in lifecycle.wanted(other, 10).sessions] == [session_id]
    world.claim(session_id)
    assert lifecycle.wanted(other, 10).sessions == []
    assert lifecycle.claim(session_id, other) is None
    assert session(session_id).worker_id == world.worker


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_of_two_claims_at_once_one_wins(world: World):
    session_id = world.open().change.session_id
    other = leases.register("worker")
    with transaction.atomic():
        world.claim(session_id)
        second = in_thread(lifecycle.claim, session_id, other)
        wait_for_lock_waiters()
    assert second() is None


@pytest.mark.parametrize("state", ["gone", "draining"])
def test_a_worker_that_is_leaving_claims_nothing(world: World, state):
    session_id = world.open().change.session_id
    (leases.mark_gone if state == "gone" else leases.begin_drain)(world.worker)
    with pytest.raises(ProcessGone):
        lifecycle.claim(session_id, world.worker)
    assert session(session_id).worker_id is None
    assert log(session_id) == []


@pytest.mark.parametrize("state", ["passivated", "failed", "closed"])
def test_nobody_claims_what_sleeps_or_is_closed(world: World, state):
    """A worker may act late on the announcement that a session is wanted."""
    session_id = in_state(world, state)
    before = Session.objects.values().get(pk=session_id)
    assert lifecycle.claim(session_id, world.worker) is None
    assert Session.objects.values().get(pk=session_id) == before


def test_who_has_waited_longest_is_started_first_and_its_worker_says_that_it_has_one_more(world: World):
    first = world.open().change.session_id
    world.clock.advance(1)
    world.open()
    assert [pk for pk, _ in lifecycle.wanted(world.worker, 1).sessions] == [first]
    lifecycle.claim(first, world.worker, load=3)
    assert Process.objects.get(pk=world.worker).load == 4


OWNERS = {
    "run": lambda pk, epoch: lifecycle.run(pk, epoch),
    "claim_passivation": lambda pk, epoch: lifecycle.claim_passivation(pk, epoch, busy=False),
    "release": lambda pk, epoch: lifecycle.release(pk, epoch, snapshots.Snapshot("mine")),
    "crash": lambda pk, epoch: lifecycle.crash(pk, epoch, "boom"),
}


CHANGES = ("hand_over", "close", "crash", "fail", "claim_passivation", "force", "deleted")
BY_ITSELF = ("claim_passivation", "claim_passivation")


@pytest.mark.parametrize(("name", "change"), [pair for pair in product(OWNERS, CHANGES) if pair != BY_ITSELF])
def test_whoever_owned_it_before_is_refused(world: World, name, change):
    session_id, epoch = world.run("a")
    if change == "hand_over":
        lifecycle.hand_over(session_id, world.worker, "gone")
    elif change == "close":
        lifecycle.close(session_id, by="me")
    elif change in ("crash", "fail"):
        Session.objects.update(crashes=0 if change == "crash" else policy.CRASH_BUDGET - 1)
        lifecycle.crash(session_id, epoch, "boom")
    elif change == "claim_passivation":
        lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    elif change == "force":
        lifecycle.hand_over(session_id, world.worker, "gone")
        lifecycle.force_passivation(session_id, by="op")
    else:
        Session.objects.filter(pk=session_id).delete()
    before = Session.objects.values().first()
    with pytest.raises(StaleEpoch):
        OWNERS[name](session_id, epoch)
    assert Session.objects.values().first() == before


def test_a_passivation_that_is_claimed_twice_is_one_transition(world: World):
    """The owner repeats its claim when the answer to a COMMIT was lost."""
    session_id, epoch = world.run()
    first = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    before = Session.objects.values().get(pk=session_id)
    again = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    assert first is not None
    assert again is not None
    assert (again.epoch, again.state, again.moved) == (first.epoch, "passivating", False)
    assert Session.objects.values().get(pk=session_id) == before


@pytest.mark.parametrize("attached", [True, False])
def test_a_release_without_a_passivation_is_refused_and_changes_nothing(world: World, attached):
    session_id, epoch = world.run("a")
    if not attached:
        lifecycle.detach("a", "gone")
    before = Session.objects.values().get(pk=session_id)
    with pytest.raises(IllegalTransition):
        lifecycle.release(session_id, epoch, snapshots.Snapshot("mine"))
    assert Session.objects.values().get(pk=session_id) == before
    assert states(session_id) == ["starting", "running"]


def test_a_run_that_is_stored_twice_is_one_transition(world: World):
    session_id, epoch = world.run()
    change = lifecycle.run(session_id, epoch)
    assert (change.state, change.epoch) == ("running", epoch)
    assert states(session_id) == ["starting", "running"]


def test_a_claim_names_the_snapshot_and_waits_for_no_file(world: World):
    session_id, epoch = world.run("a")
    large = snapshots.store(session_id, "x" * 100_000)
    append(Append(session_id, epoch=epoch, checkpoint=large))
    default_storage.delete(large.file)
    lifecycle.hand_over(session_id, world.worker, "gone")
    won = lifecycle.claim(session_id, world.worker)
    assert won is not None
    assert won[0].snapshot == large


# Passivating


def test_a_session_that_is_due_passivates_when_nothing_is_pending_or_busy(world: World):
    session_id, epoch = world.run("a")
    number = world.act(session_id, "a").numbers[0]
    lifecycle.detach("a", "gone")

    def tries(busy: bool = False) -> bool:
        return lifecycle.claim_passivation(session_id, epoch, busy=busy) is not None

    world.clock.advance(14.9)
    assert lifecycle.due(world.worker) == []
    assert not tries()
    world.clock.advance(0.1)
    assert lifecycle.due(world.worker) == [session_id]
    assert lifecycle.due(leases.register("worker")) == []
    assert not tries(), "an action is pending"
    world.clock.advance(99)
    assert not tries(), "for less than MAX_BUSY"
    world.clock.advance(-99)
    append(Append(session_id, epoch=epoch, started=number))
    append(Append(session_id, epoch=epoch, handled=number))
    assert not tries(busy=True)
    world.clock.advance(99)
    assert not tries(busy=True)
    world.clock.advance(1)
    assert tries(busy=True), "MAX_BUSY is over"


def test_what_is_pending_when_max_busy_is_over_is_told_and_the_session_sleeps(world: World):
    session_id, epoch = world.run("a")
    begun, waiting, _ = [world.act(session_id, "a").numbers[0] for _ in range(3)]
    append(Append(session_id, [action(hidden="{}")], sid="a"))
    append(Append(session_id, epoch=epoch, started=begun))
    lifecycle.detach("a", "gone")
    world.clock.advance(15 + 100)
    change = lifecycle.claim_passivation(session_id, epoch, busy=False)
    assert change is not None
    assert change.gives_up
    assert change.reason == "no connection for 15 s, and busy for MAX_BUSY (100 s) more"
    again = lifecycle.claim_passivation(session_id, epoch, busy=False)
    assert again is not None
    assert again.gives_up, "also when its answer was lost"
    append(
        Append(session_id, epoch=change.epoch, handled=begun)
    )  # its owner has reported the action that it cut off
    released = lifecycle.release(session_id, change.epoch, None, give_up=change.head)
    assert released.state == "passivated"
    told = [json.loads(data) for _, data in released.stored]
    assert [(event["observation"], event.get("cause")) for event in told] == [
        ("error", waiting),
        ("agent_state_changed", None),
    ]
    assert told[0]["extras"] == {"reason": "interrupted"}
    row = session(session_id)
    assert (row.handled_number, row.has_pending_work) == (row.last_action_number, False)
    assert not Event.objects.filter(session=session_id, hidden_text__isnull=False).exists()
    assert lifecycle.strays() == []


def test_an_action_that_comes_while_others_are_given_up_is_handled_and_has_a_max_busy_of_its_own(
    world: World,
):
    session_id, epoch = world.run("a")
    world.act(session_id, "a")
    lifecycle.detach("a", "gone")
    world.clock.advance(15 + 100)
    change = lifecycle.claim_passivation(session_id, epoch, busy=False)
    assert change is not None
    late = world.act(session_id).numbers[0]
    released = lifecycle.release(session_id, change.epoch, None, give_up=change.head)
    assert (released.state, due_in(session_id, world)) == ("starting", 15)
    assert (session(session_id).handled_number, late) == (late - 1, session(session_id).last_action_number)
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    world.clock.advance(15 + 99)
    assert lifecycle.claim_passivation(session_id, epoch, busy=False) is None


# Clocks that are set back


def test_a_session_sleeps_in_time_although_the_clock_was_set_back(world: World):
    session_id, epoch = world.run("a")
    lifecycle.detach("a", "gone")
    world.clock.advance(-3600)
    assert lifecycle.strays() == [session_id]
    lifecycle.settle(session_id, "worker")
    assert due_in(session_id, world) == 15
    assert lifecycle.strays() == []
    world.clock.advance(15)
    assert lifecycle.due(world.worker) == [session_id]
    assert lifecycle.claim_passivation(session_id, epoch, busy=False) is not None


@pytest.mark.parametrize("close_delay", [15, None])
def test_an_operators_wish_holds_at_once_although_the_clock_was_set_back(world: World, settings, close_delay):
    settings.OHSESSIONS = {**settings.OHSESSIONS, "CLOSE_DELAY": close_delay}
    session_id, epoch = world.run("a")
    lifecycle.force_passivation(session_id, by="ann")
    world.clock.advance(-3600)
    assert lifecycle.strays() == [session_id]
    lifecycle.settle(session_id, "worker")
    assert lifecycle.due(world.worker) == [session_id]
    assert lifecycle.claim_passivation(session_id, epoch, busy=False) is not None


def test_a_crashed_session_is_started_in_time_although_the_clock_was_set_back(world: World):
    session_id, epoch = world.run("a")
    lifecycle.crash(session_id, epoch, "boom")
    assert lifecycle.wanted(world.worker, 10).sessions == []
    world.clock.advance(-3600)
    ((found, waited),) = lifecycle.wanted(world.worker, 10).sessions
    assert (found, waited > 60) == (session_id, True)
    assert lifecycle.claim(session_id, world.worker) is not None


def test_a_failed_session_may_be_tried_again_although_the_clock_was_set_back(world: World):
    session_id, epoch = world.run("a")
    for _ in range(3):
        lifecycle.crash(session_id, epoch, "boom")
        world.clock.advance(60)
        if session(session_id).state == "starting":
            epoch = world.claim(session_id)
    assert session(session_id).state == "failed"
    world.clock.advance(-3600)
    assert lifecycle.strays() == [session_id]
    assert lifecycle.settle(session_id, "worker") is not None
    assert session(session_id).state == "starting"


def test_a_new_session_is_taken_at_once_although_the_clock_was_set_back(world: World):
    session_id = world.open("a").change.session_id
    world.clock.advance(-3600)
    ((found, waited),) = lifecycle.wanted(world.worker, 10).sessions
    assert (found, waited > 60) == (session_id, True)


@pytest.mark.parametrize("reason", ["", "drain"])
def test_what_is_not_ready_yet_is_not_passivated(world: World, reason):
    session_id = world.open("a").change.session_id
    lifecycle.detach("a", "gone")
    epoch = world.claim(session_id)
    world.clock.advance(15)
    assert lifecycle.claim_passivation(session_id, epoch, busy=False, reason=reason) is None
    assert states(session_id) == ["starting"]


def test_who_attaches_or_acts_while_it_passivates_wakes_it(world: World):
    for wake in ("attach", "act"):
        session_id, epoch = world.run("a")
        lifecycle.detach("a", "gone")
        world.clock.advance(20)
        change = lifecycle.claim_passivation(session_id, epoch, busy=False)
        assert change is not None
        world.attach(session_id, "late") if wake == "attach" else world.act(session_id)
        assert session(session_id).state == "passivating"
        released = lifecycle.release(session_id, change.epoch, snapshots.Snapshot({"n": 1}))
        assert (released.state, released.worker) == ("starting", None)
        assert snapshot(session_id) == {"n": 1}
        assert (due_in(session_id, world) is None) == (wake == "attach")
        won = lifecycle.claim(session_id, world.worker)
        assert won is not None
        assert won[0].snapshot == snapshots.Snapshot({"n": 1})


def test_a_release_keeps_the_last_checkpoint_when_there_is_no_snapshot(world: World):
    session_id, epoch = world.run("a")
    append(Append(session_id, epoch=epoch, checkpoint=snapshots.Snapshot("checkpoint")))
    world.sleep(session_id, epoch)
    assert snapshot(session_id) == "checkpoint"


def test_the_file_of_a_replaced_snapshot_goes_with_the_commit(world: World):
    session_id, epoch = world.run("a")
    first, second = (snapshots.store(session_id, text * 100_000) for text in "ab")
    append(Append(session_id, epoch=epoch, checkpoint=first))
    change = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    assert change is not None
    with transaction.atomic():
        lifecycle.release(session_id, change.epoch, second)
        transaction.set_rollback(True)
    assert snapshot(session_id) == "a" * 100_000
    lifecycle.release(session_id, change.epoch, second)
    assert snapshot(session_id) == "b" * 100_000
    wait_until(lambda: not default_storage.exists(first.file), "the end of the first file")


def test_a_drain_passivates_whatever_is_attached_and_leaves_pending_actions_to_the_next_owner(world: World):
    session_id, epoch = world.run("a")
    world.act(session_id, "a")
    change = lifecycle.claim_passivation(session_id, epoch, busy=True, reason="drain")
    assert change is not None
    assert change.reason == "drain"
    released = lifecycle.release(session_id, change.epoch, None)
    assert (released.state, released.worker) == ("starting", None)
    assert session(session_id).has_pending_work


def test_a_session_is_taken_over_only_from_the_worker_that_its_row_names(world: World):
    """A worker may act late on its finding: the session has had a new owner since."""
    session_id, _ = world.run("a")
    former = leases.register("worker")
    before = Session.objects.values().get(pk=session_id)
    assert lifecycle.hand_over(session_id, former, "its worker is gone") is None
    assert lifecycle.hand_over(session_id, former, "its worker is gone", died=True) is None
    assert Session.objects.values().get(pk=session_id) == before


@pytest.mark.parametrize("state", ["starting", "running", "passivating"])
def test_what_its_worker_hands_over_is_started_again(world: World, state):
    session_id = in_state(world, state)
    if state == "starting":
        world.claim(session_id)
    change = lifecycle.hand_over(session_id, world.worker, "it stops")
    assert change is not None
    assert (change.state, change.reason, change.former) == ("starting", "it stops", world.worker)
    assert states(session_id)[-1] == "starting"


def test_a_takeover_does_not_put_the_passivation_off(world: World):
    session_id, _ = world.run("a")
    lifecycle.detach("a", "gone")
    world.clock.advance(10)
    lifecycle.hand_over(session_id, world.worker, "its worker is gone")
    assert due_in(session_id, world) == 5


def test_what_fell_due_before_it_was_started_again_passivates_without_a_start(world: World):
    session_id, _ = world.run("a")
    lifecycle.detach("a", "gone")
    world.clock.advance(20)
    lifecycle.hand_over(session_id, world.worker, "its worker is gone")
    assert lifecycle.wanted(world.worker, 10).sessions == []
    assert lifecycle.claim(session_id, world.worker) is None
    assert lifecycle.strays() == [session_id]
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert (change.state, due_in(session_id, world)) == ("passivated", None)
    assert lifecycle.strays() == []


def test_a_pending_action_is_worked_off_although_everybody_left(world: World):
    session_id = world.open("a").change.session_id
    world.act(session_id, "a")
    lifecycle.detach("a", "gone")
    world.clock.advance(20)
    assert lifecycle.strays() == []
    assert lifecycle.settle(session_id, "worker") is None
    assert [pk for pk, _ in lifecycle.wanted(world.worker, 10).sessions] == [session_id]
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    append(Append(session_id, epoch=epoch, handled=0))
    assert lifecycle.claim_passivation(session_id, epoch, busy=False) is not None, "it was due all the time"


def test_sessions_that_nobody_attends_to_fall_due_when_a_close_delay_is_set_again(world: World, settings):
    settings.OHSESSIONS = {**settings.OHSESSIONS, "CLOSE_DELAY": None}
    session_id, _ = world.run("a")
    lifecycle.detach("a", "gone")
    assert due_in(session_id, world) is None
    assert lifecycle.strays() == []
    settings.OHSESSIONS = {**settings.OHSESSIONS, "CLOSE_DELAY": 7}
    assert lifecycle.strays() == [session_id]
    assert lifecycle.settle(session_id, "worker") is not None
    assert due_in(session_id, world) == 7
    assert lifecycle.settle(session_id, "worker") is None


@pytest.mark.parametrize("wake", ["attached", "pending"])
def test_a_sleeping_session_that_is_wanted_is_found_and_woken(world: World, wake):
    session_id, epoch = world.run("a")
    world.sleep(session_id, epoch)
    assert lifecycle.strays() == []
    if wake == "pending":
        world.act(session_id)
    else:
        Connection.objects.filter(sid="a").update(ended_at=None)
    assert lifecycle.strays() == [session_id]
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert change.state == "starting"
    assert (due_in(session_id, world) is None) == (wake == "attached")
    assert lifecycle.settle(session_id, "worker") is None


@pytest.mark.parametrize("state", ["running", "passivating"])
def test_a_session_whose_workers_row_was_deleted_is_started_again(world: World, state):
    session_id = in_state(world, state)
    Process.objects.filter(pk=world.worker).delete()
    assert lifecycle.strays() == [session_id]
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert (change.state, change.reason) == ("starting", "its worker is gone")


@pytest.mark.parametrize("state", ["starting", "running", "passivating", "passivated", "failed", "closed"])
def test_a_sweep_that_comes_late_changes_nothing(world: World, state):
    """Between the query of a sweep and its update, everything that it had found may have been put right."""
    session_id = in_state(world, state)
    lifecycle.detach("a", "gone")
    if state == "failed":
        world.clock.advance(policy.RETRY_MOST)
    before = Session.objects.values().get(pk=session_id)
    assert lifecycle.settle(session_id, "worker") is None
    assert Session.objects.values().get(pk=session_id) == before


def test_who_failed_is_tried_again_by_a_sweep_when_its_time_has_come_and_somebody_waits(world: World):
    session_id = world.open("a").change.session_id
    fail(world, session_id)
    assert lifecycle.settle(session_id, "worker") is None
    world.clock.advance(policy.RETRY_MOST)
    assert lifecycle.strays() == [session_id]
    change = lifecycle.settle(session_id, "worker")
    assert change is not None
    assert (change.state, change.reason) == ("starting", "tried again")


def test_sweeps_and_takeovers_of_sessions_that_are_no_more_do_nothing(world: World):
    nobody = uuid4()
    assert lifecycle.settle(nobody, "worker") is None
    assert lifecycle.hand_over(nobody, world.worker, "gone") is None
    assert lifecycle.write_off(nobody, world.gateway, "gone") is None
    assert lifecycle.claim(nobody, world.worker) is None
    assert lifecycle.detach("nobody", "gone") is None


# Crashes


def test_crashes_within_the_budget_are_tried_again_later_and_later(world: World):
    session_id = world.open("a").change.session_id
    assert lifecycle.crash(session_id, world.claim(session_id), "one").state == "starting"
    assert lifecycle.claim(session_id, world.worker) is None
    world.clock.advance(1)
    assert lifecycle.crash(session_id, world.claim(session_id), "two").state == "starting"
    world.clock.advance(1)
    assert lifecycle.claim(session_id, world.worker) is None
    world.clock.advance(1)
    failed = lifecycle.crash(session_id, world.claim(session_id), "three")
    assert (failed.state, failed.reason, failed.worker) == ("failed", "three", None)
    world.attach(session_id, "b")
    assert session(session_id).state == "failed", "reconnecting does not help before its time"
    assert lifecycle.strays() == []
    world.clock.advance(4)
    assert lifecycle.strays() == [session_id]
    world.attach(session_id, "c")
    assert session(session_id).state == "starting"
    again = lifecycle.crash(session_id, world.claim(session_id), "four")
    assert (again.state, session(session_id).crashes) == ("failed", 4), "reconnecting gives no new budget"


@pytest.mark.parametrize("then", ["crash", "passivation", "takeover"])
def test_a_minute_of_running_clears_earlier_crashes(world: World, then):
    session_id = world.open("a").change.session_id
    for _ in range(2):
        lifecycle.crash(session_id, world.claim(session_id), "boom")
        world.clock.advance(60)
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    assert session(session_id).crashes == 2
    world.clock.advance(60)
    if then == "crash":
        assert lifecycle.crash(session_id, epoch, "boom").state == "starting"
        assert session(session_id).crashes == 1
        return
    if then == "passivation":
        world.sleep(session_id, epoch)
    else:
        lifecycle.hand_over(session_id, world.worker, "gone")
    assert session(session_id).crashes == 0


@pytest.mark.parametrize("crashes", [0, 5])
def test_a_crash_while_passivating_does_not_fail_the_session(world: World, crashes):
    session_id, epoch = world.run("a")
    Session.objects.filter(pk=session_id).update(crashes=crashes)
    change = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    assert change is not None
    assert lifecycle.crash(session_id, change.epoch, "boom").state == "starting"


def test_a_crash_does_not_put_the_passivation_off(world: World):
    session_id, epoch = world.run("a")
    lifecycle.detach("a", "gone")
    world.clock.advance(10)
    lifecycle.crash(session_id, epoch, "boom")
    assert due_in(session_id, world) == 5


# Owners and operators


def in_state(world: World, state: str) -> UUID:
    """Return a session in the given state."""
    session_id, epoch = world.run("a")
    if state == "starting":
        lifecycle.hand_over(session_id, world.worker, "gone")
    elif state == "passivating":
        lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    elif state == "passivated":
        world.sleep(session_id, epoch)
    elif state == "failed":
        Session.objects.filter(pk=session_id).update(crashes=2)
        lifecycle.crash(session_id, epoch, "boom")
    elif state == "closed":
        lifecycle.close(session_id, by="me")
    assert session(session_id).state == state
    return session_id


@pytest.mark.parametrize("state", ["starting", "running", "passivating", "passivated", "failed"])
def test_a_session_is_closed_in_any_state(world: World, state):
    session_id = in_state(world, state)
    before = session(session_id).epoch
    change = lifecycle.close(session_id, by="me")
    assert (change.state, change.epoch, change.worker) == ("closed", before + 1, None)
    assert bool(change.stored) is (state in AWAKE), "its agent stops, if there is one"
    assert due_in(session_id, world) is None
    again = lifecycle.close(session_id, by="me")
    assert (again.moved, again.stored, again.epoch) == (False, [], change.epoch)
    world.attach(session_id, "reader")
    assert session(session_id).state == "closed"
    assert lifecycle.strays() == []


def test_closing_tells_the_senders_of_what_was_not_handled(world: World):
    session_id, epoch = world.run("a")
    handled = world.act(session_id, "a", hidden='{"a":1}').numbers[0]
    world.act(session_id, "a", kind="change_agent_state", waits=False)
    pending, _ = (world.act(session_id, "a", hidden='{"a":1}').numbers[0] for _ in range(2))
    append(Append(session_id, epoch=epoch, handled=handled))
    change = lifecycle.close(session_id, by="me")
    told = [json.loads(data) for _, data in change.stored]
    assert [(event["observation"], event.get("cause")) for event in told] == [
        ("error", pending),
        ("agent_state_changed", None),
    ]
    assert told[0]["extras"] == {"reason": "session_closed"}
    assert not session(session_id).has_pending_work
    assert not Event.objects.filter(session=session_id, hidden_text__isnull=False).exists()


def test_an_operator_passivates_what_runs_and_who_reconnects_does_not_prevent_it(world: World):
    session_id, epoch = world.run("a")
    world.act(session_id, "a")
    change, _ = lifecycle.force_passivation(session_id, by="op")
    assert change.ended
    assert change.worker == world.worker
    assert lifecycle.end_reasons(["a"]) == {"a": "operator"}
    world.attach(session_id, "again")
    lifecycle.detach("again", "gone")
    world.attach(session_id, "again")
    assert lifecycle.due(world.worker) == [session_id]
    claimed = lifecycle.claim_passivation(session_id, epoch, busy=True)
    assert claimed is not None
    assert claimed.reason == "by an operator"
    released = lifecycle.release(session_id, claimed.epoch, None)
    assert released.state == "starting", "since somebody is attached"
    assert due_in(session_id, world) is None
    assert session(session_id).forced_by == ""
    assert Transition.objects.filter(session=session_id, target="passivating", by="op").exists()


def test_an_operator_passivates_what_nobody_has_begun_to_start(world: World):
    session_id = world.open("a").change.session_id
    change, _ = lifecycle.force_passivation(session_id, by="op")
    assert (change.state, change.former, change.ended) == ("passivated", None, True)
    assert lifecycle.strays() == []


def test_what_is_being_started_sleeps_when_its_owner_has_ended_that_for_an_operator(world: World):
    """It does not sleep earlier: another owner must not start it at the same time."""
    session_id = world.open("a").change.session_id
    epoch = world.claim(session_id)
    assert lifecycle.end_start(session_id, epoch) is None
    assert not lifecycle.is_unwanted_start(session_id, epoch)
    change, _ = lifecycle.force_passivation(session_id, by="op")
    assert (change.state, change.worker, change.ended) == ("starting", world.worker, True)
    assert lifecycle.due(world.worker) == [session_id]
    assert lifecycle.is_unwanted_start(session_id, epoch)
    ended = lifecycle.end_start(session_id, epoch)
    assert ended is not None
    assert (ended.state, ended.reason, ended.former) == ("passivated", "by an operator", world.worker)
    assert log(session_id)[-1][1] == "agent_state_changed"
    assert lifecycle.strays() == []
    with pytest.raises(StaleEpoch):
        lifecycle.end_start(session_id, epoch)


def test_a_start_that_was_ended_begins_again_if_a_client_attached_meanwhile(world: World):
    session_id = world.open("a").change.session_id
    epoch = world.claim(session_id)
    lifecycle.force_passivation(session_id, by="op")
    world.attach(session_id, "b")
    ended = lifecycle.end_start(session_id, epoch)
    assert ended is not None
    reason = "by an operator; but a client is attached or an action pending"
    assert (ended.state, ended.reason, ended.worker) == ("starting", reason, None)
    assert states(session_id) == ["starting", "starting"]


def test_an_operator_may_end_the_connections_of_what_is_passivating(world: World):
    session_id, epoch = world.run("a")
    claimed = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain")
    assert claimed is not None
    change, _ = lifecycle.force_passivation(session_id, by="op")
    assert (change.state, change.ended) == ("passivating", True)
    assert lifecycle.release(session_id, claimed.epoch, None).state == "passivated"


def test_an_operator_changes_nothing_about_what_sleeps(world: World):
    session_id, epoch = world.run("a")
    world.sleep(session_id, epoch)
    before = Session.objects.values().get(pk=session_id)
    change, outcome = lifecycle.force_passivation(session_id, by="op")
    assert (change.moved, outcome) == (False, "Nothing to do: the session is passivated.")
    assert Session.objects.values().get(pk=session_id) == before


def test_an_operator_wakes_what_sleeps_and_it_falls_asleep_again_by_itself(world: World):
    session_id, epoch = world.run("a")
    released = world.sleep(session_id, epoch)
    change, outcome = lifecycle.wake(session_id, by="op")
    assert (change.state, change.moved, change.epoch) == ("starting", True, released.epoch + 1)
    assert outcome.endswith("Unless a client attaches, it is passivated after 15 s.")
    assert due_in(session_id, world) == 15
    assert lifecycle.wanted(world.worker, 10).sessions == [(session_id, 0.0)]
    assert Transition.objects.filter(target="starting", by="op", reason="by an operator").exists()
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    world.clock.advance(15)
    assert lifecycle.claim_passivation(session_id, epoch, busy=False) is not None


@pytest.mark.parametrize("attached", [True, False])
def test_an_operator_wakes_what_failed_before_its_time_and_with_a_new_budget(world: World, attached):
    session_id = world.open("a").change.session_id
    world.act(session_id, "a")
    fail(world, session_id)
    if not attached:
        lifecycle.detach("a", "gone")
    change, outcome = lifecycle.wake(session_id, by="op")
    assert change.state == "starting"
    assert ("Unless a client attaches" in outcome) is not attached
    assert due_in(session_id, world) == (None if attached else 15)
    row = session(session_id)
    assert (row.crashes, row.retry_at) == (0, None)
    world.clock.advance(60)
    epoch = world.claim(session_id)  # it is long due to sleep, but its action must be handled first
    assert lifecycle.crash(session_id, epoch, "boom").state == "starting", "one crash of a new budget"


def fail(world: World, session_id) -> None:
    """Let the runtime break at each start until its crash budget is used up."""
    for _ in range(policy.CRASH_BUDGET):
        world.clock.advance(60)
        lifecycle.crash(session_id, world.claim(session_id), "boom")
    row = session(session_id)
    assert (row.state, row.retry_at > world.clock.now()) == ("failed", True)


@pytest.mark.parametrize("state", ["starting", "running", "passivating", "closed"])
def test_an_operator_wakes_nothing_that_is_awake_or_closed(world: World, state):
    session_id = in_state(world, state)
    before = Session.objects.values().get(pk=session_id)
    change, outcome = lifecycle.wake(session_id, by="op")
    assert (change.moved, outcome) == (False, f"Nothing to do: the session is {state}.")
    assert Session.objects.values().get(pk=session_id) == before


@pytest.mark.parametrize("end", ["crash", "takeover"])
def test_the_end_of_a_runtime_forgets_that_an_operator_wanted_it_passivated(world: World, end):
    session_id, epoch = world.run("a")
    lifecycle.force_passivation(session_id, by="op")
    world.attach(session_id, "again")
    if end == "crash":
        lifecycle.crash(session_id, epoch, "boom")
    else:
        lifecycle.hand_over(session_id, world.worker, "gone")
    row = session(session_id)
    assert (row.forced_by, row.passivate_at) == ("", None)


def test_a_title_is_cut_to_what_the_column_holds(world: World):
    session_id = world.open("a").change.session_id
    lifecycle.rename(session_id, "x" * 300)
    assert session(session_id).title == "x" * 200


def test_waiting_is_counted_from_when_a_session_could_be_started(world: World):
    session_id = world.open("a").change.session_id
    world.clock.advance(3)
    assert lifecycle.wanted(world.worker, 10).sessions == [(session_id, 3.0)]
    lifecycle.crash(session_id, world.claim(session_id), "boom")
    world.clock.advance(1.5)
    assert lifecycle.wanted(world.worker, 10).sessions == [(session_id, 0.5)]


def test_a_row_that_is_saved_leaves_the_heavy_columns_alone(world: World):
    session_id, epoch = world.run("a")
    append(Append(session_id, [action()], epoch=epoch, checkpoint=snapshots.Snapshot({"a": 1})))
    row = session(session_id)
    lifecycle.detach("a", "gone")
    after = session(session_id)
    assert (after.snapshot, after.settings, after.secrets) == (row.snapshot, row.settings, row.secrets)
    assert after.passivate_at == world.clock.now() + timedelta(seconds=15)


def test_a_session_whose_start_kills_its_workers_fails_within_its_budget(world: World):
    session_id = world.open("a").change.session_id
    for crashes in range(1, policy.CRASH_BUDGET + 1):
        world.claim(session_id)
        lifecycle.hand_over(session_id, world.worker, "its worker is gone", died=True)
        assert session(session_id).crashes == crashes
        assert session(session_id).retry_at > database_now()
        world.clock.advance(policy.RETRY_MOST)
    assert session(session_id).state == "failed"
    assert session(session_id).reason == "its worker is gone, while it started"


def test_a_session_that_ran_when_its_worker_died_is_not_blamed(world: World):
    session_id, _ = world.run("a")
    lifecycle.hand_over(session_id, world.worker, "its worker is gone", died=True)
    row = session(session_id)
    assert (row.state, row.crashes, row.retry_at) == ("starting", 0, None)


def test_a_dead_workers_session_that_nobody_wants_sleeps_without_being_started(world: World, settings):
    session_id, _ = world.run("a")
    lifecycle.detach("a", "gone")
    lifecycle.hand_over(session_id, world.worker, "its worker is gone", died=True)
    row = session(session_id)
    assert (row.state, row.worker, row.passivate_at) == ("passivated", None, None)
    assert row.reason == "its worker is gone, and nobody is attached"


@pytest.mark.parametrize("wanted", ["pending", "attached", "kept"])
def test_a_dead_workers_session_that_somebody_wants_is_started_elsewhere(world: World, settings, wanted):
    if wanted == "kept":
        settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSE_DELAY": None}
    session_id, _ = world.run("a")
    if wanted == "pending":
        world.act(session_id)
    if wanted != "attached":
        lifecycle.detach("a", "gone")
    lifecycle.hand_over(session_id, world.worker, "its worker is gone", died=True)
    assert session(session_id).state == "starting"


def test_of_a_dead_workers_sessions_only_as_many_are_handed_over_as_the_line_leaves_room_for(
    world: World, monkeypatch
):
    monkeypatch.setattr(sweeps, "LINE", 2)
    left = {world.run()[0] for _ in range(3)}
    left.add(pending := world.run("acted")[0])
    world.act(pending)
    lifecycle.detach("acted", "gone")
    idle, _ = world.run("gone")
    lifecycle.detach("gone", "gone")
    dead, other = world.worker, leases.register("worker")
    leases.mark_gone(dead)
    first = lifecycle.left_behind(dead, 10)
    assert len(first) == 3
    assert first[-1] == idle, "who only has to sleep waits for nobody"
    assert set(first[:2]) < left
    for session_id in first:
        lifecycle.hand_over(session_id, dead, "its worker is gone", died=True)
    assert lifecycle.left_behind(dead, 10) == []
    lifecycle.claim(first[0], other)
    assert len(lifecycle.left_behind(dead, 10)) == 1
    leases.mark_gone(other)
    assert len(lifecycle.left_behind(dead, 10)) == 2, "without a worker there is no line"
