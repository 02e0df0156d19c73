"""A worker that stops, loses its lease, or passivates sessions at the worst moment.

The database is the real one. The world's clock stands still, so only sessions that are due at once become
due.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from channels.layers import get_channel_layer
from django.db import transaction

from ohsessions import lifecycle, snapshots
from ohsessions.core.errors import Unavailable
from ohsessions.core.runtime import JSON, Action, Runtime
from ohsessions.journal import Append
from ohsessions.management.commands import ohsessions as command
from ohsessions.models import Event, Process, Session, Transition
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.wakeups import worker_channel
from ohsessions.worker.host import SessionHost
from ohsessions.worker.worker import SessionWorker
from tests.integration.boundaries import Boundary, GatedDatabase, When, until
from tests.integration.world import World, action
from tests.tasks import turns

LIMIT = 15.0
TOLD = "worker waits for its end"
"""Name of a task that the command runs until a signal ends the worker."""


def known(row: Session) -> Any:
    """Return the value of the snapshot that a row names."""
    return snapshots.load(snapshots.named_by(row))


class Slow(Runtime):
    """A runtime that takes each step when a test allows it, and records its steps in `seen`."""

    seen: list[str]
    news: asyncio.Event
    may_start: asyncio.Event
    may_handle: asyncio.Event
    may_passivate: asyncio.Event
    may_close: asyncio.Event

    @classmethod
    def reset(cls) -> None:
        cls.seen, cls.news = [], asyncio.Event()
        for what in ("start", "handle", "passivate", "close"):
            gate = asyncio.Event()
            gate.set()
            setattr(cls, f"may_{what}", gate)

    async def _pass(self, what: str) -> None:
        self._note(f"{what} begins")
        await getattr(self, f"may_{what}").wait()
        self._note(f"{what} ends")

    def _note(self, what: str) -> None:
        self.seen.append(what)
        self.news.set()

    @classmethod
    async def wait(cls, what: str, times: int = 1) -> None:
        async with asyncio.timeout(LIMIT):
            while cls.seen.count(what) < times:
                cls.news.clear()
                await cls.news.wait()

    async def start(self, snapshot: JSON) -> None:
        await self._pass("start")

    async def handle(self, action: Action) -> None:
        try:
            await self._pass("handle")
        except asyncio.CancelledError:
            self._note("handle is cancelled")  # the handler treats its cancellation as a normal end

    async def passivate(self) -> JSON:
        await self._pass("passivate")
        return "what it knew"

    async def close(self) -> None:
        await self._pass("close")


class Site:
    """A worker in this event loop, and a client's side of it."""

    def __init__(self, world: World, store: Store, worker: SessionWorker) -> None:
        self.world = world
        self.store = store
        self.worker = worker

    async def open(self) -> UUID:
        attached = await self.store.change(self.world.open, "a")
        return attached.change.session_id

    async def open_running(self) -> UUID:
        session_id = await self.open()
        await self.wait_state(session_id, "running")
        return session_id

    @property
    def database(self) -> GatedDatabase:
        assert isinstance(self.store.database, GatedDatabase)
        return self.store.database

    def task(self, session_id: UUID) -> asyncio.Task[None]:
        """Return the task of a session's activation."""
        host = self.worker._hosted.get(session_id)
        assert host is not None
        task = self.worker._hosted.task(host)
        assert task is not None
        return task

    async def act(self, session_id: UUID) -> None:
        await self.store.append(Append(session_id, [action()]))

    async def row(self, session_id: UUID) -> Session:
        return await self.store.database.read(Session.objects.get, pk=session_id)

    async def wait_state(self, session_id: UUID, state: str) -> Session:
        async with asyncio.timeout(LIMIT):
            while (row := await self.row(session_id)).state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return row

    @asynccontextmanager
    async def stopping(self) -> AsyncIterator[None]:
        """Begin to stop the worker, wait until it drains, and wait for its stop at the end."""
        own = Process.objects.filter(pk=self.worker._membership.process_id, state=Process.State.DRAINING)
        stopping = asyncio.create_task(self.worker.stop("its worker stopped"))
        await until(lambda: self.database.look(own.all().exists), "its row saying that it drains")
        yield
        async with asyncio.timeout(LIMIT):
            await stopping

    async def passivate(self, session_id: UUID) -> None:
        """Passivate a session as an operator does."""
        await self.store.change(lifecycle.force_passivation, session_id, by="ann")

    async def reasons(self, session_id: UUID) -> list[tuple[str, str]]:
        def read() -> list[tuple[str, str]]:
            rows = Transition.objects.filter(session=session_id).order_by("id")
            return list(rows.values_list("target", "reason"))

        return await self.store.database.read(read)


@pytest.fixture
def make_site(world: World, settings: Any) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(**changed: Any) -> AsyncIterator[Site]:
        runtimes = {"echo": {"BACKEND": f"{__name__}.Slow", "OPTIONS": {}}}
        settings.OHSESSIONS = {"RUNTIMES": runtimes, "CLOSE_DELAY": 0} | changed
        Slow.reset()
        store = Store(GatedDatabase())
        await store.change(leases.mark_gone, world.worker)
        worker = SessionWorker(store)
        await worker.start()
        try:
            yield Site(world, store, worker)
        finally:
            for gate in (Slow.may_start, Slow.may_handle, Slow.may_passivate, Slow.may_close):
                gate.set()
            store.database.arm()
            await worker.stop("the test is over")
            await store.close()

    return make


Make = Callable[..., Any]


async def test_a_stop_lets_a_passivation_that_has_begun_come_to_its_end(
    make_site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain, has_drained = SessionHost.drain, asyncio.Event()

    async def drain_and_tell(host: SessionHost, reason: str, limit: float) -> bool:
        is_passivating = await drain(host, reason, limit)
        has_drained.set()
        return is_passivating

    monkeypatch.setattr(SessionHost, "drain", drain_and_tell)
    async with make_site() as site:
        session_id = await site.open_running()
        Slow.may_passivate.clear()
        await site.store.change(lifecycle.detach, "a", "gone")
        await Slow.wait("passivate begins")
        (lease,) = (task for task in asyncio.all_tasks() if task.get_name() == "worker lease")
        async with site.stopping():
            async with asyncio.timeout(LIMIT):
                await has_drained.wait()
            await turns()
            assert not site.task(session_id).cancelling(), "it is not cut off"
            assert not lease.cancelling(), "the stop waits for it"
            Slow.may_passivate.set()
        row = await site.row(session_id)
        assert (row.state, known(row)) == ("passivated", "what it knew")


async def test_a_stop_goes_on_when_an_operator_passivates_what_it_waits_for(make_site: Make) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        Slow.may_handle.clear()
        await site.act(session_id)
        await Slow.wait("handle begins")
        host = site.worker._hosted.get(session_id)
        assert host is not None
        async with site.stopping():
            await site.passivate(session_id)
            await host.try_passivate()
        row = await site.row(session_id)
        assert (row.state, known(row)) == ("passivated", "what it knew")


async def test_a_handler_that_ends_as_if_it_had_not_been_cancelled_costs_no_snapshot(make_site: Make) -> None:
    """Another action waits, and must not begin now."""
    async with make_site() as site:
        session_id = await site.open_running()
        Slow.may_handle.clear()
        for _ in range(2):
            await site.act(session_id)
        await Slow.wait("handle begins")
        await site.passivate(session_id)
        await Slow.wait("passivate ends")
        assert Slow.seen.count("handle begins") == 1
        await Slow.wait("start begins", 2)  # for the waiting action
        assert known(await site.row(session_id)) == "what it knew"


async def test_a_session_put_to_sleep_while_it_starts_is_closed_before_it_starts_again(
    make_site: Make,
) -> None:
    async with make_site() as site:
        Slow.may_start.clear()
        Slow.may_close.clear()
        session_id = await site.open()
        await Slow.wait("start begins")
        await site.passivate(session_id)
        await site.store.change(site.world.attach, session_id, "b")
        await Slow.wait("close begins")
        Slow.may_start.set()
        Slow.may_close.set()
        await site.wait_state(session_id, "running")
        assert Slow.seen == ["start begins", "close begins", "close ends", "start begins", "start ends"]
        assert ("starting", "by an operator; but a client is attached or an action pending") in (
            await site.reasons(session_id)
        )


async def test_a_start_that_hangs_is_ended_when_an_operator_wants_it(make_site: Make) -> None:
    async with make_site() as site:
        Slow.may_start.clear()
        session_id = await site.open()
        await Slow.wait("start begins")
        await site.passivate(session_id)
        await site.wait_state(session_id, "passivated")
        assert (await site.reasons(session_id))[-1] == ("passivated", "by an operator")
        assert Slow.seen == ["start begins", "close begins", "close ends"]


async def test_a_worker_whose_lease_is_over_claims_nothing(make_site: Make) -> None:
    """Sessions that the worker let go of may take a while to close.

    Until then the worker keeps its old id, and other processes consider that id active.
    """
    async with make_site() as site:
        await site.open_running()
        Slow.may_close.clear()
        letting_go = asyncio.create_task(site.worker._membership._let_go("a test"))
        await Slow.wait("close begins")
        other = (await site.store.change(site.world.open, "b")).change.session_id
        site.worker._something_wanted.set()
        await site.worker._claim_wanted()
        assert not await site.store.database.read(Event.objects.filter(session=other).exists)
        assert not letting_go.done()
        Slow.may_close.set()
        await letting_go
        await site.wait_state(other, "running")


async def test_a_claim_of_a_passivation_whose_answer_is_lost_costs_no_snapshot(
    make_site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lifecycle.claim_passivation
    answers: list[Any] = []

    def claim(*args: Any, **kwargs: Any) -> Any:
        answers.append(real(*args, **kwargs))
        if answers[-1] is not None and len(answers) == 1:
            raise Unavailable
        return answers[-1]

    async with make_site() as site:
        session_id = await site.open_running()
        monkeypatch.setattr(lifecycle, "claim_passivation", claim)
        await site.store.change(lifecycle.detach, "a", "gone")
        row = await site.wait_state(session_id, "passivated")
        assert known(row) == "what it knew"
        assert len(answers) == 2


async def test_the_first_signal_during_an_operators_drain_is_not_the_second(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An init system sends SIGTERM as well, after the drain that its hook requested."""
    settings.OHSESSIONS = {"RUNTIMES": {"echo": {"BACKEND": f"{__name__}.Slow", "OPTIONS": {}}}}
    Slow.reset()
    exits: list[int] = []
    monkeypatch.setattr(command.os, "_exit", exits.append)
    store = Store()
    working = asyncio.Event()
    running = asyncio.create_task(command.work_until_told(working.set))
    try:
        await store.change(leases.mark_gone, world.worker)
        async with asyncio.timeout(LIMIT):
            await working.wait()
        site = Site(world, store, SessionWorker(store))
        session_id = await site.open_running()
        Slow.may_handle.clear()
        await site.act(session_id)
        await Slow.wait("handle begins")
        ((worker,),) = await store.database.read(
            lambda: list(Process.objects.filter(kind="worker").exclude(state="gone").values_list("pk"))
        )
        await store.change(leases.begin_drain, worker)
        async with asyncio.timeout(LIMIT):
            while any(task.get_name() == TOLD for task in asyncio.all_tasks()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        Slow.may_handle.set()
        async with asyncio.timeout(LIMIT):
            await running
        assert exits == []
        assert known(await site.row(session_id)) == "what it knew"
    finally:
        Slow.may_handle.set()
        running.cancel()
        await store.close()


# Rows and hosts that disagree, for a moment or for good


async def reached(site: Site) -> None:
    async with asyncio.timeout(LIMIT):
        await site.database.reached.wait()


async def states(site: Site, session_id: UUID) -> list[str]:
    return [state for state, _ in await site.reasons(session_id)]


ASLEEP = ["starting", "running", "passivating", "passivated"]


async def test_a_session_that_is_being_claimed_is_not_given_back(make_site: Make) -> None:
    async with make_site() as site:
        site.database.arm(Boundary("claim", 0), When.AFTER)
        session_id = await site.open()
        await reached(site)
        await site.worker._reconcile()
        site.database.opened.set()
        await site.wait_state(session_id, "running")
        assert await states(site, session_id) == ["starting", "running"]


async def test_a_session_whose_passivation_is_being_claimed_is_not_cut_off(make_site: Make) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        site.database.arm(Boundary("claim_passivation", 0), When.AFTER)
        await site.store.change(lifecycle.detach, "a", "gone")
        await reached(site)
        await site.worker._reconcile()
        site.database.opened.set()
        await site.wait_state(session_id, "passivated")
        assert await states(site, session_id) == ASLEEP


async def test_a_session_that_begins_to_sleep_while_the_rows_are_read_is_not_cut_off(
    make_site: Make,
) -> None:
    async with make_site(CLOSE_DELAY=3600) as site:
        session_id = await site.open_running()
        host = site.worker._hosted.get(session_id)
        await site.store.change(lifecycle.detach, "a", "gone")
        site.database.arm(Boundary("owned_by", 0), When.BEFORE)
        await reached(site)
        Slow.may_passivate.clear()
        assert await host.try_passivate("the test wants it")
        site.database.opened.set()
        site.database.arm(Boundary("owned_by", 0), When.BEFORE)
        await reached(site)  # it has looked at the row that it read before
        site.database.opened.set()
        Slow.may_passivate.set()
        row = await site.wait_state(session_id, "passivated")
        assert known(row) == "what it knew"
        assert await states(site, session_id) == ASLEEP


@pytest.mark.parametrize("by", ["another worker", "itself"])
async def test_what_is_hosted_under_a_row_that_says_otherwise_is_ended(make_site: Make, by: str) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        task = site.task(session_id)
        own = site.worker._membership.process_id
        other = own if by == "itself" else await site.store.change(leases.register, Process.Kind.WORKER)

        def take() -> None:
            with transaction.atomic():
                assert lifecycle.hand_over(session_id, own, "the test wants it")
                assert lifecycle.claim(session_id, other)

        await site.store.change(take)
        await until(task.done, "the end of the activation")


async def test_a_session_that_comes_back_while_its_former_activation_ends_stays_hosted(
    make_site: Make,
) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        former = site.task(session_id)
        own = site.worker._membership.process_id
        other = await site.store.change(leases.register, Process.Kind.WORKER)

        def take() -> None:
            with transaction.atomic():
                assert lifecycle.hand_over(session_id, own, "the test wants it")
                assert lifecycle.claim(session_id, other)

        Slow.may_close.clear()
        await site.store.change(take)
        await Slow.wait("close begins")
        await site.store.change(leases.mark_gone, other)
        await site.store.change(lifecycle.hand_over, session_id, other, "its worker is gone")
        await Slow.wait("start ends", 2)
        Slow.may_close.set()
        await asyncio.wait([former], timeout=LIMIT)
        assert former.done()
        assert not site.task(session_id).done()
        await site.wait_state(session_id, "running")


async def test_what_a_row_says_is_hosted_and_is_not_is_given_back(make_site: Make) -> None:
    """A claim may be committed although its answer is lost."""
    async with make_site() as site:
        site.database.arm(Boundary("claim", 0), When.LOST)
        session_id = await site.open_running()
        assert ("starting", "its worker does not serve it") in await site.reasons(session_id)


async def test_a_host_goes_by_the_lease_of_its_worker(make_site: Make) -> None:
    async with make_site(HEARTBEAT=3600, LEASE_TTL=7200) as site:
        session_id = await site.open_running()
        task = site.task(session_id)
        site.worker.renewed(time.monotonic() - 7200)
        await site.act(session_id)
        await until(task.done, "the end of an activation without a lease")


async def test_a_worker_that_joined_anew_is_heard_under_its_new_id(make_site: Make) -> None:
    async with make_site() as site:
        layer: Any = get_channel_layer()
        before = site.worker._membership.process_id
        await until(lambda: worker_channel(before) in layer.channels, "its listening")
        await site.store.change(leases.mark_gone, before)
        await site.worker._membership.renew()
        after = site.worker._membership.process_id
        assert after != before
        await until(lambda: worker_channel(after) in layer.channels, "its listening anew")


async def test_a_look_that_failed_is_not_the_last_one(
    make_site: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = lifecycle.wanted

    def fail_once(*args: Any) -> Any:
        monkeypatch.setattr(lifecycle, "wanted", wanted)
        raise ZeroDivisionError

    async with make_site() as site:
        monkeypatch.setattr(lifecycle, "wanted", fail_once)
        await site.open_running()
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [
        "A job of the worker failed, and is tried again"
    ]


async def test_a_worker_that_stops_gives_back_what_it_was_claiming_and_claims_nothing_more(
    make_site: Make,
) -> None:
    async with make_site() as site:
        Slow.may_handle.clear()
        await site.act(await site.open_running())
        await Slow.wait("handle begins")
        site.database.arm(Boundary("claim", 0), When.AFTER)
        claimed = (await site.store.change(site.world.open, "b")).change.session_id
        await reached(site)
        own = Process.objects.filter(pk=site.worker._membership.process_id)
        async with site.stopping():
            site.database.opened.set()
            await Slow.wait("start begins", 2)
            late = (await site.store.change(site.world.open, "c")).change.session_id
            Slow.may_handle.set()
        assert site.worker.load() == 0
        rows = [await site.row(session_id) for session_id in (claimed, late)]
        assert [(row.state, row.worker_id) for row in rows] == [("starting", None)] * 2
        assert await states(site, late) == ["starting"]
        assert (await site.database.look(own.get)).state == "gone"


async def test_an_action_that_outlasts_a_stop_is_cut_off_before_its_session_is_handed_over(
    make_site: Make,
) -> None:
    async with make_site(PASSIVATE_TIMEOUT=0.2) as site:
        session_id = await site.open_running()
        Slow.may_handle.clear()
        await site.act(session_id)
        await Slow.wait("handle begins")
        site.database.arm(Boundary("hand_over", 0), When.BEFORE)
        async with site.stopping():
            await reached(site)
            assert Slow.seen[-1] == "close ends"
            site.database.opened.set()
        row = await site.row(session_id)
        assert (row.state, row.worker_id) == ("starting", None)


async def test_what_nobody_looks_after_is_put_right(make_site: Make) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        await site.passivate(session_id)
        await site.wait_state(session_id, "passivated")
        lost = Session.objects.filter(pk=session_id)
        await site.store.change(lost.update, state="passivating")
        await site.store.change(site.world.attach, session_id, "b")
        await site.wait_state(session_id, "running")
        assert ("starting", "its worker is gone") in await site.reasons(session_id)


async def test_an_action_of_which_the_layer_brings_nothing_is_handled(make_site: Make) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        site.store.wakeups._layer = None
        await site.act(session_id)
        await Slow.wait("handle ends")


# The database is away for a moment


async def test_a_database_that_is_away_when_a_session_is_ready_is_no_crash(make_site: Make) -> None:
    async with make_site() as site:
        site.database.arm(Boundary("run", 0), When.REFUSED)
        session_id = await site.open_running()
        assert site.database.reached.is_set()
        assert await states(site, session_id) == ["starting", "running"]


async def test_a_database_that_is_away_when_a_session_is_to_sleep_costs_no_snapshot(make_site: Make) -> None:
    async with make_site() as site:
        session_id = await site.open_running()
        site.database.arm(Boundary("release", 0), When.REFUSED)
        await site.store.change(lifecycle.detach, "a", "gone")
        row = await site.wait_state(session_id, "passivated")
        assert site.database.reached.is_set()
        assert known(row) == "what it knew"
        assert await states(site, session_id) == ASLEEP


async def test_a_crash_is_stored_though_the_database_is_away_meanwhile(
    make_site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Slow, action: Action) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(Slow, "handle", fail)
    async with make_site() as site:
        session_id = await site.open_running()
        site.database.arm(Boundary("crash", 0), When.REFUSED)
        await site.act(session_id)
        await until(lambda: crashed(site, session_id), "the crash")
        assert site.database.reached.is_set()


async def crashed(site: Site, session_id: UUID) -> bool:
    return (await site.row(session_id)).crashes == 1


async def test_an_end_that_is_cancelled_again_and_again_comes_to_its_end(make_site: Make) -> None:
    """A reconciliation cancels it again when an ended session is still in the list of hosts."""
    async with make_site() as site:
        session_id = await site.open_running()
        task = site.task(session_id)
        Slow.may_close.clear()
        task.cancel()
        await Slow.wait("close begins")
        for _ in range(3):
            task.cancel()
            await turns()
        assert not task.done()
        Slow.may_close.set()
        await asyncio.wait([task], timeout=LIMIT)
        assert task.cancelled()
        assert "close ends" in Slow.seen
