"""A process's own lease and its view of other leases, with a clock that stands still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, ProgrammingError, connection

from ohsessions import lifecycle
from ohsessions.conf import conf
from ohsessions.core.clock import FakeClock
from ohsessions.database import database as threads
from ohsessions.database import lanes
from ohsessions.lifecycle import Change
from ohsessions.models import Process
from ohsessions.processes import leases
from ohsessions.processes import reaper as reaper_module
from ohsessions.processes.membership import GATEWAY_PATIENCE, HOLD, Membership
from ohsessions.processes.reaper import Reaper
from ohsessions.processes.store import Store
from tests.integration.world import World, row_locked, session, sids, wait_for_lock_waiters

LIMIT = 20.0


class Holder:
    """A holder of sessions under a lease that records its calls."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def load(self) -> int:
        return 3

    def renewed(self, confirmed_at: float) -> None:
        self.told.append("renewed")
        self.confirmed_at = confirmed_at

    async def lost(self, reason: str) -> None:
        self.told.append("lost")


class Outage:
    """An outage of the database while `on`: heartbeats fail as they do in a real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = False
        for name in ("renew", "register", "mark_gone", "living"):
            monkeypatch.setattr(leases, name, self.guard(getattr(leases, name)))

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            if self.on:
                raise OperationalError("away")
            return function(*args)

        return guarded


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
async def membership(store: Store, holder: Holder, clock: FakeClock) -> Membership:
    membership = Membership(store, Process.Kind.WORKER, holder, clock)
    await membership.join()
    return membership


@pytest.fixture
def outage(membership: Membership, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


async def row(store: Store, process_id: UUID) -> Process:
    return await store.database.read(lambda: Process.objects.get(pk=process_id))


async def test_it_renews_and_says_so(store, membership, holder):
    await membership.renew()
    process = await row(store, membership.process_id)
    assert (process.heartbeat, process.load, process.state) == (1, 3, "active")
    assert holder.told == ["renewed"]


async def test_who_starts_before_the_tables_are_there_waits_for_them_and_says_so_once(
    store, holder, settings, monkeypatch, caplog
):
    caplog.set_level("INFO", "ohsessions.processes.membership")
    settings.OHSESSIONS = settings.OHSESSIONS | {"HEARTBEAT": 0.01}
    register, tries = leases.register, []

    def register_when_migrated(*args: Any) -> UUID:
        tries.append(args)
        if len(tries) <= 3:
            connection.ensure_connection()  # otherwise, its error is taken for an error of the connection
            raise ProgrammingError('relation "ohsessions_process" does not exist')
        return register(*args)

    monkeypatch.setattr(leases, "register", register_when_migrated)
    membership = Membership(store, Process.Kind.GATEWAY, holder)
    async with asyncio.timeout(LIMIT):
        process_id = await membership.join()
    assert membership.holds(process_id)
    told = [record.verb for record in caplog.records if record.name == "ohsessions.processes.membership"]
    assert told == ["registration_lost", "registration_back"]
    assert "does not exist" in caplog.text


async def test_who_was_declared_gone_lets_go_and_joins_under_a_new_id(store, membership, holder):
    before = membership.process_id
    rejoined = asyncio.create_task(membership.wait_rejoined(before))
    await store.change(leases.mark_gone, before)
    await membership.renew()
    assert holder.told == ["lost"]
    assert membership.process_id != before
    assert not membership.holds(before)
    assert membership.holds(membership.process_id)
    async with asyncio.timeout(LIMIT):
        await rejoined
    await membership.renew()
    assert holder.told == ["lost", "renewed"]
    assert (await row(store, before)).state == "gone"


async def test_who_drains_and_was_declared_gone_meanwhile_drains_on(store, membership):
    await membership.begin_drain()
    assert (await row(store, membership.process_id)).state == "draining"
    await store.change(leases.mark_gone, membership.process_id)
    await membership.renew()
    assert (await row(store, membership.process_id)).state == "draining"


async def test_nothing_relies_on_a_lease_while_it_is_let_go_of(store, membership, holder, monkeypatch):
    before, relied_on = membership.process_id, []

    async def lost(reason: str) -> None:
        relied_on.append(membership.holds(before))

    monkeypatch.setattr(holder, "lost", lost)
    await store.change(leases.mark_gone, before)
    await membership.renew()
    assert relied_on == [False]


async def test_nothing_relies_on_a_lease_that_has_run_out(membership, clock):
    clock.advance(HOLD * conf.LEASE_TTL - 0.01)
    assert membership.holds(membership.process_id)
    clock.advance(0.01)
    assert not membership.holds(membership.process_id)


async def test_it_lets_go_before_others_may_take_over(outage, membership, holder, clock):
    await membership.renew()
    outage.on = True
    clock.advance(7.9)
    await membership.renew()
    assert holder.told == ["renewed"], "0.8 × LEASE_TTL are not over"
    clock.advance(0.1)
    await membership.renew()
    assert holder.told == ["renewed", "lost"]
    clock.advance(2)
    await membership.renew()
    assert holder.told == ["renewed", "lost"], "once"


async def test_a_gateway_keeps_its_clients_while_the_database_restarts(store, holder, clock, monkeypatch):
    gateway = Membership(store, Process.Kind.GATEWAY, holder, clock)
    before = await gateway.join()
    outage = Outage(monkeypatch)
    outage.on = True
    clock.advance(GATEWAY_PATIENCE - 1)
    await gateway.renew()
    assert holder.told == []
    assert not gateway.holds(before), "but it attaches nobody"
    outage.on = False
    await gateway.renew()
    assert holder.told == ["renewed"]
    assert gateway.holds(before)
    outage.on = True
    clock.advance(GATEWAY_PATIENCE)
    await gateway.renew()
    assert holder.told == ["renewed", "lost"]


async def test_after_an_outage_it_begins_again_under_a_new_id(store, outage, membership, holder, clock):
    before = membership.process_id
    outage.on = True
    clock.advance(8)
    await membership.renew()
    outage.on = False
    await membership.renew()
    assert holder.told == ["lost"]
    assert membership.process_id != before
    assert (await row(store, before)).state == "gone"
    await membership.renew()
    assert holder.told == ["lost", "renewed"]


async def test_a_renewal_that_comes_late_counts_from_when_it_was_sent(
    store, membership, holder, clock, monkeypatch
):
    def late(*args: Any) -> None:
        clock.advance(7)

    monkeypatch.setattr(leases, "renew", late)
    before = clock.monotonic()
    await membership.renew()
    assert holder.told == ["renewed"]
    assert holder.confirmed_at == membership.confirmed_at == before
    monkeypatch.setattr(leases, "renew", fail)
    clock.advance(1)
    await membership.renew()
    assert holder.told == ["renewed", "lost"]


async def test_a_process_whose_registration_comes_late_begins_with_a_whole_lease(
    store, holder, clock, monkeypatch
):
    """The lease counts from the time when its renewal was sent, not from the time of the registration."""
    register, renew = leases.register, leases.renew

    def late(*args: Any) -> UUID:
        clock.advance(9)
        return register(*args)

    def renew_late(*args: Any) -> None:
        clock.advance(1)
        renew(*args)

    monkeypatch.setattr(leases, "renew", renew_late)

    monkeypatch.setattr(leases, "register", late)
    membership = Membership(store, Process.Kind.WORKER, holder, clock)
    before = clock.monotonic()
    process_id = await membership.join()
    assert membership.confirmed_at == before + 9
    assert membership.holds(process_id)


def fail(*args: Any) -> None:
    raise ZeroDivisionError


async def test_whatever_goes_wrong_with_a_renewal_it_still_lets_go(
    membership, holder, clock, monkeypatch, caplog
):
    monkeypatch.setattr(leases, "renew", fail)
    await membership.renew()
    clock.advance(8)
    await membership.renew()
    assert holder.told == ["lost"]
    assert "A lease was not renewed" in caplog.text


async def test_a_renewal_without_an_answer_is_waited_for_until_the_lease_ends(
    store, membership, holder, clock, monkeypatch
):
    answer = threading.Event()
    monkeypatch.setattr(leases, "renew", lambda *args: answer.wait(LIMIT))
    clock.advance(7.9)
    async with asyncio.timeout(LIMIT / 2):
        await membership.renew()
    answer.set()
    assert holder.told == ["lost"]


async def test_a_lease_that_ends_between_two_heartbeats_is_given_up_then(
    store, holder, clock, monkeypatch, settings
):
    settings.OHSESSIONS = {**settings.OHSESSIONS, "HEARTBEAT": 1000, "LEASE_TTL": 3000}
    membership = Membership(store, Process.Kind.WORKER, holder, clock)
    await membership.join()
    lost = asyncio.Event()
    monkeypatch.setattr(holder, "lost", lambda reason: asyncio.sleep(0, lost.set()))
    clock.advance(HOLD * 3000)
    keeping = asyncio.create_task(membership.keep())
    async with asyncio.timeout(LIMIT):
        await lost.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_heartbeats_wait_for_nobody_who_waits_for_a_lock(world, store, membership, holder):
    session_id = (await store.change(world.open)).change.session_id
    with row_locked(session_id):
        closing = [
            asyncio.create_task(store.change(lifecycle.close, session_id, by="me"))
            for _ in range(threads.LIFECYCLE_THREADS)
        ]
        await store.database.read(wait_for_lock_waiters, threads.LOCK_WAITERS)
        async with asyncio.timeout(LIMIT):
            await membership.renew()
    await asyncio.gather(*closing)
    assert holder.told == ["renewed"]


async def test_leaving_marks_it_gone_and_an_outage_does_not_matter(store, outage, membership):
    outage.on = True
    await membership.leave()
    assert (await row(store, membership.process_id)).state == "active"
    outage.on = False
    await membership.leave()
    assert (await row(store, membership.process_id)).state == "gone"


@pytest.fixture
def world_row(world: World) -> World:
    """Let the processes look as if they lived on another host: only their counters are known."""
    Process.objects.update(birth="")
    return world


async def test_what_a_silent_worker_and_a_silent_gateway_held_is_taken_over(
    world_row: World, store: Store, clock: FakeClock
):
    world = world_row
    session_id, _ = await store.change(world.run, "a")
    own = await store.change(leases.register, Process.Kind.WORKER)
    reaper = Reaper(store, lambda: own, clock)
    for _ in range(20):
        await reaper.look()
        clock.advance(0.5)
    await reaper.take_over()
    held = await store.database.read(session, session_id)
    assert (held.worker_id, await store.database.read(sids, session_id)) == (world.worker, ["a"])
    await reaper.look()
    await reaper.take_over()
    taken = await store.database.read(session, session_id)
    assert (taken.state, taken.worker_id) == ("passivated", None)
    assert await store.database.read(lifecycle.end_reasons, ["a"]) == {"a": "gateway_lost"}
    assert (await row(store, own)).state == "active", "nobody declares itself gone"


async def test_a_counter_stands_still_from_when_it_was_read_and_not_from_when_it_was_asked_for(
    world_row: World, store: Store, clock: FakeClock, monkeypatch
):
    """The holder may raise its counter between the request and the read, and counts from then."""
    own = await store.change(leases.register, Process.Kind.WORKER)
    reaper = Reaper(store, lambda: own, clock)
    living = leases.living

    def read_late() -> list[Process]:
        clock.advance(0.9)
        return living()

    with monkeypatch.context() as slow:
        slow.setattr(leases, "living", read_late)
        await reaper.look()
    for _ in range(19):
        clock.advance(0.5)
        await reaper.look()
    clock.advance(0.4)
    await reaper.look()
    assert (await row(store, world_row.worker)).state == "active"
    clock.advance(0.1)
    await reaper.look()
    assert (await row(store, world_row.worker)).state == "gone"


async def test_a_renewal_between_the_look_and_the_verdict_wins(
    world_row: World, store: Store, clock: FakeClock, monkeypatch
):
    own = await store.change(leases.register, Process.Kind.WORKER)
    reaper = Reaper(store, lambda: own, clock)
    for _ in range(20):
        await reaper.look()
        clock.advance(0.5)
    living = leases.living

    def read_before_a_renewal() -> list[Process]:
        processes = living()
        leases.renew(world_row.worker, 0)
        return processes

    monkeypatch.setattr(leases, "living", read_before_a_renewal)
    await reaper.look()
    assert (await row(store, world_row.worker)).state == "active"
    assert (await row(store, world_row.gateway)).state == "gone"


async def test_taking_over_does_not_keep_the_reaper_from_looking(store, membership, monkeypatch):
    monkeypatch.setattr(reaper_module, "REAP_EVERY", 0.0)
    looks, looked, taken = [], asyncio.Event(), threading.Event()

    def living() -> list[Process]:
        looks.append(None)
        if len(looks) > 3:
            loop.call_soon_threadsafe(looked.set)
        return []

    def take_long() -> list[Process]:
        taken.wait(LIMIT)
        return []

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(leases, "living", living)
    monkeypatch.setattr(leases, "gone_with_leftovers", take_long)
    reaper = Reaper(store, lambda: membership.process_id)
    watching = asyncio.gather(reaper.look_for_ever(), reaper.take_over_for_ever())
    try:
        async with asyncio.timeout(LIMIT / 2):
            await looked.wait()
    finally:
        taken.set()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_who_is_concerned_by_a_takeover_hears_of_it_and_nothing_is_left(
    world: World, store: Store, monkeypatch
):
    session_id, _ = await store.change(world.run, "a")
    await store.change(world.attach, session_id, "detached")
    await store.change(lifecycle.detach, "detached", "left", leave=True)
    for process_id in (world.worker, world.gateway):
        await store.change(leases.mark_gone, process_id)
    told: list[tuple[str, UUID]] = []

    async def change(change: Change) -> None:
        told.append((change.state, change.session_id))

    async def presence(session_id: UUID) -> None:
        told.append(("presence", session_id))

    monkeypatch.setattr(store.wakeups, "change", change)
    monkeypatch.setattr(store.wakeups, "presence", presence)
    reaper = Reaper(store, lambda: UUID(int=0))
    await reaper.take_over()
    assert told == [("running", session_id), ("presence", session_id), ("passivated", session_id)]
    assert await store.database.read(leases.gone_with_leftovers) == []
    await reaper.take_over()
    assert len(told) == 3


async def test_a_process_drains_when_it_is_told_to_and_not_when_another_is(world: World, store: Store):
    drains: list[None] = []
    reaper = Reaper(store, lambda: world.worker, on_drain=lambda: drains.append(None))
    await store.change(leases.begin_drain, world.gateway)
    await reaper.look()
    assert drains == []
    await store.change(leases.begin_drain, world.worker)
    await reaper.look()
    assert drains == [None]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["gateway", "worker"])
async def test_a_locked_session_keeps_nothing_else_with_a_process_that_is_gone(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(lanes, "LOCK_PATIENCE", 10 * LIMIT)
    sessions = [(await store.change(world.run))[0] for _ in range(4)]
    await store.change(leases.mark_gone, getattr(world, kind))
    own = await store.change(leases.register, Process.Kind.WORKER)
    reaper = Reaper(store, lambda: own)

    async def left() -> set[UUID]:
        rows = await store.database.read(lifecycle.owned_by, world.worker)
        if kind == "worker":
            return set(rows)
        return set((await store.database.read(lifecycle.open_connections, world.gateway)).values())

    with row_locked(sessions[0]):
        async with asyncio.timeout(LIMIT / 2):
            await reaper.take_over()
        assert await left() == {sessions[0]}
    await reaper.take_over()
    assert await left() == set()


async def test_an_outage_of_the_database_is_nobodys_fault(
    world_row: World, store: Store, clock: FakeClock, monkeypatch
):
    own = await store.change(leases.register, Process.Kind.WORKER)
    outage = Outage(monkeypatch)
    reaper = Reaper(store, lambda: own, clock)
    await reaper.look()
    outage.on = True
    for _ in range(40):
        clock.advance(0.5)
        with pytest.raises(Exception, match="cannot be reached"):
            await reaper.look()
    outage.on = False
    await reaper.look()
    assert (await row(store, world_row.worker)).state == "active"


async def test_a_process_that_is_dead_for_certain_is_taken_over_at_once(
    world: World, store: Store, clock: FakeClock
):
    own = await store.change(leases.register, Process.Kind.WORKER)

    def bury() -> None:
        row = Process.objects.get(pk=world.worker)
        row.birth = row.birth.rpartition("/")[0] + "/1"
        row.save()

    await store.change(bury)
    await Reaper(store, lambda: own, clock).look()
    assert (await row(store, world.worker)).state == "gone"
    assert (await row(store, world.gateway)).state == "active"


async def test_the_reaper_goes_on_after_whatever_went_wrong(store, membership, monkeypatch, caplog):
    looks = asyncio.Event()

    def living() -> list[Process]:
        if "The watch over other processes failed" in caplog.text:
            loop.call_soon_threadsafe(looks.set)
            return []
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(leases, "living", living)
    watching = asyncio.create_task(Reaper(store, lambda: membership.process_id).look_for_ever())
    async with asyncio.timeout(LIMIT):
        await looks.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
