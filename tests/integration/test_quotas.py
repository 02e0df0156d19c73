"""Session quotas of one person, and eviction: on both databases, two requests at once included."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import transaction

from ohsessions import access, lifecycle
from ohsessions.core.errors import WireError
from ohsessions.core.policy import BY_QUOTA, QUOTA_REASON
from ohsessions.journal import Append
from ohsessions.models import Connection, Session, Transition
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.worker.worker import SessionWorker
from tests.integration.boundaries import until
from tests.integration.world import World, action, append, in_thread, init, session, wait_for_lock_waiters


@pytest.fixture(autouse=True)
def configure(settings: Any) -> Any:
    """Let anonymous visitors start sessions, and return a function that sets settings of ohsessions."""

    def set_some(**values: Any) -> None:
        settings.OHSESSIONS = {**settings.OHSESSIONS, **values}

    set_some(ALLOW_ANONYMOUS=True, CLOSE_DELAY=15)
    return set_some


def refused(call: Any, *args: Any, **kwargs: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        call(*args, **kwargs)
    assert (caught.value.code, caught.value.reason) == (429, "quota")
    assert caught.value.extra["retry_after"] > 0
    return caught.value


def visit(world: World, address: str = "192.0.2.1", sid: str = "") -> UUID:
    """Start a session as a visitor without a login."""
    socket = lifecycle.Arrival(sid or uuid4().hex, world.gateway, AnonymousUser(), address=address)
    return lifecycle.open_session(socket, init()).change.session_id


def awake() -> int:
    return Session.objects.filter(state__in=["starting", "running", "passivating"]).count()


# Refusing


def test_one_session_more_than_may_be_awake_is_refused_and_leaves_nothing(
    world: World, configure: Any
) -> None:
    configure(MAX_RUNNING_PER_USER=2)
    world.open("a")
    world.open("b")
    assert "2 sessions awake" in refused(world.open, "c").message
    assert (Session.objects.count(), Connection.objects.count()) == (2, 2)


def test_a_session_that_sleeps_makes_room_and_counts_again_when_it_wakes(
    world: World, configure: Any
) -> None:
    configure(MAX_RUNNING_PER_USER=1)
    first, epoch = world.run("a")
    refused(world.open, "b")
    world.sleep(first, epoch)
    second = world.open("b").change.session_id
    refused(world.attach, first, "c")
    assert session(first).state == "passivated"
    lifecycle.close(second, by="me")
    world.attach(first, "c")
    assert session(first).state == "starting"


def test_joining_a_session_that_is_awake_needs_no_room(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1)
    opened = world.open("a")
    world.attach(opened.change.session_id, "b")
    assert awake() == 1


def test_the_same_init_again_needs_no_room(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1)
    first = world.open("a", client_id="x" * 16)
    assert world.open("b", client_id="x" * 16).change.session_id == first.change.session_id


def test_a_session_counts_for_its_owner_whoever_wakes_it(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1, MAX_RUNNING_PER_ADDRESS=1)
    first, epoch = world.run("a")
    token = access.issue_token(session(first), access.Role.EDITOR)
    world.sleep(first, epoch)
    world.open("b")
    guest = lifecycle.Arrival("c", world.gateway, AnonymousUser(), address="192.0.2.1")
    refused(lifecycle.attach, guest, init(token=token))


def test_visitors_count_by_their_address(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_ADDRESS=1, MAX_RUNNING_PER_USER=1)
    visit(world)
    refused(visit, world)
    visit(world, "192.0.2.2")
    visit(world, "2001:db8:1:2::1")
    refused(visit, world, "2001:db8:1:2::99")
    world.open()
    rows = Session.objects.values_list("visitor", flat=True)
    assert not [visitor for visitor in rows if "192" in visitor or "2001" in visitor]


def test_users_do_not_count_for_each_other(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1)
    world.open()
    world.user = get_user_model().objects.create_user("another")
    world.open()
    refused(world.open)


def test_sessions_that_are_kept_are_limited_and_closing_one_makes_room(world: World, configure: Any) -> None:
    configure(MAX_SESSIONS_PER_VISITOR=2, MAX_RUNNING_PER_USER=None)
    first = world.open().change.session_id
    world.open()
    assert "2 sessions" in refused(world.open).message
    lifecycle.close(first, by="me")
    world.open()
    refused(world.open)


def test_without_limits_any_number_may_be_awake(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=None, MAX_RUNNING_PER_ADDRESS=None, MAX_SESSIONS_PER_VISITOR=None)
    for _ in range(40):
        world.open()
        visit(world)
    assert awake() == 80


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_of_two_sessions_opened_at_once_only_one_takes_the_last_place(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1)
    with transaction.atomic():
        world.open("a")
        other = in_thread(world.open, "b")
        wait_for_lock_waiters()
    refused(other)
    assert awake() == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_of_two_sessions_woken_at_once_only_one_takes_the_last_place(world: World, configure: Any) -> None:
    sleeping = []
    for sid in ("a", "b"):
        session_id, epoch = world.run(sid)
        world.sleep(session_id, epoch)
        sleeping.append(session_id)
    configure(MAX_RUNNING_PER_USER=1)
    with transaction.atomic():
        world.attach(sleeping[0], "c")
        other = in_thread(world.attach, sleeping[1], "d")
        wait_for_lock_waiters()
    refused(other)
    assert awake() == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_session_that_falls_asleep_during_an_attach_needs_room(world: World, configure: Any) -> None:
    first, epoch = world.run("a")
    configure(MAX_RUNNING_PER_USER=2)
    world.open("b")
    lifecycle.detach("a", "gone")
    world.clock.advance(3600)
    change = lifecycle.claim_passivation(first, epoch, busy=False)
    assert change is not None
    with transaction.atomic():
        lifecycle.release(first, change.epoch, None)
        other = in_thread(world.attach, first, "c")
        wait_for_lock_waiters()
        configure(MAX_RUNNING_PER_USER=1)
    refused(other)
    assert session(first).state == "passivated"


# Evicting


def test_the_longest_idle_session_makes_room_and_says_why(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=2, QUOTA_ACTION="evict")
    first, _ = world.run("a")
    world.clock.advance(10)
    second, epoch = world.run("b")
    world.clock.advance(10)
    append(Append(first, [action()], sid="a"))  # so the second session is idle for longer
    append(Append(first, epoch=session(first).epoch, started=2))
    append(Append(first, epoch=session(first).epoch, handled=2))
    opened = world.open("c")
    assert [(change.session_id, change.ended) for change in opened.evicted] == [(second, True)]
    assert lifecycle.end_reasons(["a", "b"]) == {"b": "evicted"}
    assert lifecycle.due(world.worker) == [second]
    change = lifecycle.claim_passivation(second, epoch, busy=True)
    assert change is not None
    lifecycle.release(second, change.epoch, None)
    last = Transition.objects.filter(session=second).order_by("pk").last()
    assert last is not None
    assert (last.target, last.reason, last.by) == ("passivated", QUOTA_REASON, BY_QUOTA)
    assert session(first).forced_by == ""


def test_a_session_that_nobody_has_started_yet_makes_room_at_once(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1, QUOTA_ACTION="evict")
    first = world.open("a").change.session_id
    second = world.open("b").change.session_id
    assert [session(pk).state for pk in (first, second)] == ["passivated", "starting"]
    assert session(first).reason == QUOTA_REASON


def test_a_session_is_evicted_by_the_connection_that_leaves_it(world: World, configure: Any) -> None:
    """One connection may repeat INIT in a loop."""
    configure(MAX_RUNNING_PER_USER=1, QUOTA_ACTION="evict")
    for _ in range(5):
        world.open("a")
    assert awake() == 1
    attached = Connection.objects.attached().get()
    assert (attached.sid, attached.session.state) == ("a", "starting")


def test_a_session_with_pending_work_is_not_evicted(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1, QUOTA_ACTION="evict")
    first, _ = world.run("a")
    world.act(first, "a")
    refused(world.open, "b")
    assert session(first).forced_by == ""


def test_those_on_their_way_to_sleep_are_at_most_as_many_as_may_be_awake(
    world: World, configure: Any
) -> None:
    configure(MAX_RUNNING_PER_USER=2, QUOTA_ACTION="evict")
    for number in range(4):
        world.run(f"s{number}")  # nobody passivates the sessions that are to make room
    assert Session.objects.filter(forced_by=BY_QUOTA).count() == 2
    refused(world.open)
    assert awake() == 4


def test_waking_a_session_evicts_another_one(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_USER=1, QUOTA_ACTION="evict")
    first, epoch = world.run("a")
    world.sleep(first, epoch)
    second, _ = world.run("b")
    world.attach(first, "c")
    assert session(first).state == "starting"
    assert session(second).forced_by == BY_QUOTA


# Workers


async def test_a_worker_claims_no_more_than_it_may_run(world: World, configure: Any) -> None:
    configure(MAX_RUNNING_PER_WORKER=2)
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    sessions = {(await store.change(world.open, f"s{n}")).change.session_id for n in range(3)}
    worker = SessionWorker(store)
    await worker.start()
    try:
        await until(lambda: worker.load() == 2, "the sessions that it may run")
        await worker._claim_wanted()
        await until(lambda: not worker._claiming, "the end of what is being claimed")
        assert worker.load() == 2
        first = next(iter(worker._hosted)).session_id
        await store.change(lifecycle.close, first, by="me")
        await until(
            lambda: {host.session_id for host in worker._hosted} == sessions - {first}, "the third session"
        )
    finally:
        await worker.stop("the test is over")
        await store.close()
