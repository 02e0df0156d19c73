"""Activations that end at the worst moment. The database is the real one."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.files.base import File
from django.core.files.storage import InMemoryStorage, default_storage

from ohsessions import journal, lifecycle, snapshots
from ohsessions.conf import conf
from ohsessions.core.errors import StaleEpoch
from ohsessions.core.faults import public_reason
from ohsessions.core.runtime import JSON, Action, Runtime, SupervisedProcess
from ohsessions.journal import Append
from ohsessions.models import Event, Session
from ohsessions.processes import leases
from ohsessions.processes.membership import HOLD
from ohsessions.processes.store import Store
from ohsessions.runtimes.blocking import BlockingRuntime
from ohsessions.worker import activation as activation_module
from ohsessions.worker.host import SessionHost
from ohsessions.worker.host_phase import HostPhase
from ohsessions.worker.worker import SessionWorker
from tests.integration.world import World, action, append, in_thread, log, session, snapshot

LIMIT = 10.0


def use(settings: Any, runtime: type[Runtime], **changed: Any) -> None:
    """Let each session run this runtime."""
    entry = {"BACKEND": f"{__name__}.{runtime.__name__}", "OPTIONS": {}}
    settings.OHSESSIONS = {"RUNTIMES": {"echo": entry}} | changed


class Answering(Runtime):
    """A runtime that answers each action with one event and a checkpoint."""

    async def handle(self, action: Action) -> None:
        self.context.checkpoint({"last": action.id})
        await self.context.emit(observation="answer", content="")


def stored(session_id: UUID) -> tuple[list[str], int]:
    """Return the kinds of the runtime's events, and the number up to which actions are handled."""
    kinds = Event.objects.filter(session=session_id, source="agent").values_list("kind", flat=True)
    return list(kinds), Session.objects.get(pk=session_id).handled_number


class Retrying(Answering):
    """A runtime that may get an action again after the action was cut off."""

    retries_interrupted = True


class Spawning(Answering):
    """A runtime that needs a program."""

    seconds = "0"
    program: SupervisedProcess

    async def start(self, snapshot: JSON) -> None:
        type(self).program = await self.context.spawn(["/bin/sleep", self.seconds], env={})

    @classmethod
    def lives(cls) -> bool:
        return Path(f"/proc/{cls.program.pid}").exists()


class Busy(Answering):
    """A runtime that is always busy with work of its own."""

    @property
    def busy(self) -> bool:
        return True


class Checkpointing(Answering):
    """A runtime with a checkpoint at each interrupt and in each action. A test decides when actions end."""

    may_end = asyncio.Event()

    async def handle(self, action: Action) -> None:
        await super().handle(action)
        await self.may_end.wait()

    async def interrupt(self, action: Action) -> None:
        self.context.checkpoint({"interrupted": action.id})
        await self.context.emit(observation="heard", content="")


class Breaking(Runtime):
    """A runtime that breaks in the middle of an action, when a test allows it."""

    handling, may_break = asyncio.Event(), asyncio.Event()

    async def handle(self, action: Action) -> None:
        self.handling.set()
        await self.may_break.wait()
        raise ValueError("broken")


async def test_a_stop_does_not_wait_for_the_action_of_a_runtime_that_breaks_meanwhile(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Breaking, PASSIVATE_TIMEOUT=3 * LIMIT)
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    store = Store()
    worker = SessionWorker(store)
    await worker.start()
    try:
        session_id = (await store.change(world.open)).change.session_id
        await store.append(Append(session_id, [action()]))
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
        stopping = asyncio.create_task(worker.stop("the test is over"))
        await asyncio.sleep(0)
        Breaking.may_break.set()
        async with asyncio.timeout(LIMIT):
            await stopping
    finally:
        await store.close()


async def test_an_interrupt_that_was_only_being_read_when_the_runtime_broke_is_left_to_the_next_one(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Breaking)
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    reading, may_read = threading.Event(), threading.Event()
    read = journal.read_action

    def read_slowly(session_id: UUID, number: int) -> tuple[Action, int]:
        found = read(session_id, number)
        if found[0].type == "change_agent_state":
            reading.set()
            assert may_read.wait(LIMIT)
        return found

    monkeypatch.setattr(journal, "read_action", read_slowly)
    store = Store()
    try:
        session_id = (await store.change(world.open)).change.session_id
        won = await store.change(lifecycle.claim, session_id, world.worker)
        assert won is not None
        interrupt = action(kind="change_agent_state", waits=False)
        await store.append(Append(session_id, [action(), interrupt]))
        running = asyncio.create_task(SessionHost(store, won[0], time.monotonic()).run())
        assert await asyncio.to_thread(reading.wait, LIMIT)
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
            Breaking.may_break.set()
            await running
    finally:
        may_read.set()
        await store.close()
    row = await asyncio.to_thread(in_thread(Session.objects.get, pk=session_id))
    assert (row.handled_number, row.interrupted_number) == (row.last_action_number, -1)


async def test_a_cancelled_activation_stores_no_end_of_an_answer_without_the_mark(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Answering)
    storing, may_store = threading.Event(), threading.Event()

    def inline(value: Any) -> Any:
        storing.set()
        assert may_store.wait(LIMIT)
        return snapshots.Snapshot(value)

    monkeypatch.setattr(snapshots, "_inline", inline)
    store = Store()
    try:
        session_id = (await store.change(world.open)).change.session_id
        won = await store.change(lifecycle.claim, session_id, world.worker)
        assert won is not None
        before = await store.database.read(stored, session_id)
        await store.append(Append(session_id, [action()]))
        host = SessionHost(store, won[0], time.monotonic())
        task = asyncio.create_task(host.run())
        assert await asyncio.to_thread(storing.wait, LIMIT)
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT)
        may_store.set()
        assert task.cancelled()
    finally:
        may_store.set()
        await store.close()  # after everything that was queued
    assert await asyncio.to_thread(in_thread(stored, session_id)) == before


class Stuck(BlockingRuntime):
    """A runtime that handles its action until the test is over."""

    may_end = threading.Event()

    def do_handle(self, action: Action) -> None:
        self.emit(observation="handling")
        assert self.may_end.wait(2 * LIMIT)


class Keeping(Runtime):
    """A runtime whose snapshot is a file."""

    async def passivate(self) -> JSON:
        return "x" * 70_000


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Store]:
    """Run a worker, and check that it and the store stop quickly."""
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    worker = SessionWorker(store)
    await worker.start()
    try:
        yield store
    finally:
        async with asyncio.timeout(LIMIT):
            await worker.stop("the test is over")
            await store.close()


async def until(store: Store, true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not await store.database.read(true):
        assert time.monotonic() < end, f"waited {LIMIT} s for {what}"
        await asyncio.sleep(0.02)


async def asleep(store: Store, session_id: UUID) -> Session:
    """Let an operator put a session to sleep, and return its row."""
    sleeping = Session.objects.filter(pk=session_id, state="passivated")
    await store.change(lifecycle.force_passivation, session_id, by="ann")
    await store.announced()
    await until(store, sleeping.all().exists, "the session sleeping")
    return await store.database.read(sleeping.get)


async def test_blocking_code_that_never_returns_is_given_up_and_holds_up_nobody(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes = {name: {"BACKEND": f"{__name__}.{name}", "OPTIONS": {}} for name in ("Stuck", "Keeping")}
    settings.OHSESSIONS = {"RUNTIMES": runtimes, "PASSIVATE_TIMEOUT": 0.5}
    monkeypatch.setattr(activation_module, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(Stuck, "may_end", threading.Event())
    try:
        async with working(world) as store:
            # Every process has few asyncio threads; here all of them hang as well.
            executor = ThreadPoolExecutor(1)
            executor.submit(Stuck.may_end.wait, 2 * LIMIT)
            asyncio.get_running_loop().set_default_executor(executor)
            stuck, keeping = [
                (await store.change(world.open, args={"runtime": name})).change.session_id
                for name in runtimes
            ]
            await store.append(Append(stuck, [action()]))
            await until(store, lambda: stored(stuck)[0] == ["handling"], "the action being handled")
            running = Session.objects.filter(pk=keeping, state="running")
            await until(store, running.all().exists, "the other session running")
            assert (await asleep(store, keeping)).snapshot_file
            problem = "TimeoutError: saving its state took longer than 0.5 s; its last checkpoint counts"
            reason = (await asleep(store, stuck)).reason
            assert public_reason(reason).startswith("by an operator; its state was not saved (reference ")
            assert reason.endswith(f": {problem}")
    finally:
        Stuck.may_end.set()


StoreIn = Callable[[type[Runtime], type[InMemoryStorage]], None]


@pytest.fixture
def store_in(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreIn]:
    """Return a function that lets each session run a runtime over a storage, with a short timeout."""

    def over(runtime: type[Runtime], storage: type[InMemoryStorage]) -> None:
        use(settings, runtime, PASSIVATE_TIMEOUT=0.2)
        default = {"BACKEND": f"{__name__}.{storage.__name__}"}
        settings.STORAGES = {**settings.STORAGES, "default": default}

    monkeypatch.setattr(HangingStorage, "may_save", threading.Event())
    yield over
    HangingStorage.may_save.set()


class HangingStorage(InMemoryStorage):
    """A storage that saves nothing until the test ends."""

    may_save = threading.Event()

    def _save(self, name: str, content: File[bytes]) -> str:
        assert self.may_save.wait(2 * LIMIT)
        return super()._save(name, content)


async def test_a_storage_that_hangs_keeps_no_session_from_sleeping(world: World, store_in: StoreIn) -> None:
    store_in(Keeping, HangingStorage)
    async with working(world) as store:
        session_id = (await store.change(world.open)).change.session_id
        running = Session.objects.filter(pk=session_id, state="running")
        await until(store, running.all().exists, "the session running")
        row = await asleep(store, session_id)
        problem = "TimeoutError: saving its state took longer than 0.2 s; its last checkpoint counts"
        assert row.snapshot_file == ""
        what = r"by an operator; its state was not saved \(reference [0-9a-f]{8}\): "
        assert re.fullmatch(what + re.escape(problem), row.reason)


async def test_a_snapshot_that_cannot_be_read_fails_its_session(world: World, settings: Any) -> None:
    use(settings, Answering)
    store = Store()
    try:
        session_id, epoch = await store.change(world.run)
        large = await snapshots.astore(session_id, "x" * 70_000)
        await store.append(Append(session_id, epoch=epoch, checkpoint=large))
        await store.change(default_storage.delete, large.file)
        await store.change(lifecycle.hand_over, session_id, world.worker, "gone")
        rows = []
        for _ in range(3):
            world.clock.advance(60)
            won = await store.change(lifecycle.claim, session_id, world.worker)
            assert won is not None
            await SessionHost(store, won[0], time.monotonic()).run()
            rows.append(await store.database.read(Session.objects.get, pk=session_id))
    finally:
        await store.close()
    assert [row.state for row in rows] == ["starting", "starting", "failed"]
    text = "RuntimeFailure: its snapshot cannot be read: FileNotFoundError"
    assert {row.reason.partition("): ")[2] for row in rows} == {text}
    assert {public_reason(row.reason)[:30] for row in rows} == {"it could not start (reference "}


async def test_a_snapshot_whose_key_is_gone_fails_the_start_and_says_which_setting_it_is_about(
    world: World, settings: Any
) -> None:
    use(settings, Answering)
    store = Store()
    try:
        session_id, epoch = await store.change(world.run)
        await store.append(Append(session_id, epoch=epoch, checkpoint=await snapshots.astore(session_id, 1)))
        await store.change(lifecycle.hand_over, session_id, world.worker, "gone")
        world.clock.advance(60)
        won = await store.change(lifecycle.claim, session_id, world.worker)
        assert won is not None
        settings.OHSESSIONS = {**settings.OHSESSIONS, "SECRETS_KEYS": ["another"]}
        await SessionHost(store, won[0], time.monotonic()).run()
        row = await store.database.read(Session.objects.get, pk=session_id)
    finally:
        await store.close()
    assert row.reason.startswith("it could not start")
    assert "SECRETS_KEYS" in row.reason


class Growing(Runtime):
    """A runtime whose checkpoint is a file."""

    async def handle(self, action: Action) -> None:
        self.context.checkpoint("x" * 70_000)


class FailingStorage(InMemoryStorage):
    """A storage that saves nothing."""

    def _save(self, name: str, content: File[bytes]) -> str:
        raise OSError("no space left")


PROBLEMS = {
    HangingStorage: "TimeoutError: storing its checkpoint took longer than 0.2 s",
    FailingStorage: "OSError: no space left",
}


@pytest.mark.parametrize("storage", PROBLEMS)
async def test_a_checkpoint_that_cannot_be_stored_is_a_crash_that_is_told_and_stored(
    world: World, store_in: StoreIn, storage: type[InMemoryStorage]
) -> None:
    store_in(Growing, storage)
    async with working(world) as store:
        session_id = (await store.change(world.open)).change.session_id
        (number,) = (await store.append(Append(session_id, [action()]))).numbers
        crashed = Session.objects.filter(pk=session_id, crashes=1)
        await until(store, crashed.all().exists, "the crash being stored")
        row = await store.database.read(crashed.get)
        told = Event.objects.filter(session=session_id, kind="error")
        (error,) = await store.database.read(lambda: list(told))
    assert (row.state, row.handled_number) == ("starting", number)
    public, _, text = row.reason.partition(": ")
    assert text == PROBLEMS[storage]
    assert re.fullmatch(r"its runtime broke \(reference [0-9a-f]{8}\)", public)
    assert f"Sorry, {public}." in error.data


# Permissions of an activation, and the traces it leaves


@asynccontextmanager
async def hosted(
    world: World, session_id: UUID, store: Store, *, lease_is_over: bool = False
) -> AsyncIterator[tuple[SessionHost, asyncio.Task[None]]]:
    """Run an activation of a session, and cut it off at the end."""
    won = await store.change(lifecycle.claim, session_id, world.worker)
    assert won is not None
    held = HOLD * conf.LEASE_TTL if lease_is_over else 0.0
    host = SessionHost(store, won[0], time.monotonic() - held)
    task = asyncio.create_task(host.run())
    try:
        yield host, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.close()


def begin_and_die(world: World, session_id: UUID, number: int) -> None:
    """Begin an action in an activation, and let its worker die."""
    epoch = world.claim(session_id)
    lifecycle.run(session_id, epoch)
    append(Append(session_id, epoch=epoch, started=number))
    lifecycle.hand_over(session_id, world.worker, "its worker is gone")


def kinds(session_id: UUID) -> list[str]:
    """Return the kinds of answers and errors."""
    return [kind for _, kind in log(session_id) if kind in ("answer", "error")]


@pytest.mark.parametrize(
    ("runtime", "deaths", "last_words"),
    [(Answering, 0, "answer"), (Answering, 1, "error"), (Retrying, 1, "answer"), (Retrying, 2, "error")],
)
async def test_an_action_that_was_cut_off_is_begun_once_more_and_only_if_its_runtime_allows_it(
    world: World, store: Store, settings: Any, runtime: type[Runtime], deaths: int, last_words: str
) -> None:
    use(settings, runtime)
    session_id = (await store.change(world.open)).change.session_id
    number = (await store.append(Append(session_id, [action()]))).numbers[0]
    for _ in range(deaths):
        await store.change(begin_and_die, world, session_id, number)

    async with hosted(world, session_id, store):
        await until(store, lambda: session(session_id).handled_number == number, "the action handled")
    assert await store.database.read(kinds, session_id) == [last_words]


async def test_a_checkpoint_is_stored_with_the_end_of_its_action_or_at_once_outside_of_one(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Checkpointing)
    monkeypatch.setattr(Checkpointing, "may_end", asyncio.Event())
    session_id = (await store.change(world.open)).change.session_id
    number = (await store.append(Append(session_id, [action()]))).numbers[0]

    def seen() -> tuple[list[str], int, JSON]:
        return *stored(session_id), snapshot(session_id)

    async with hosted(world, session_id, store) as (host, _):
        await until(store, lambda: seen() == (["answer"], -1, None), "the answer alone")
        Checkpointing.may_end.set()
        end = ["answer"], number, {"last": number}
        await until(store, lambda: seen() == end, "its end, with the checkpoint")
        interrupt = action(kind="change_agent_state", waits=False)
        late = (await store.append(Append(session_id, [interrupt]))).numbers[0]
        host.wake()
        everything = ["answer", "heard"], number, {"interrupted": late}
        await until(store, lambda: seen() == everything, "the checkpoint of the interrupt")


async def test_an_interrupt_that_was_delivered_is_not_delivered_to_the_next_activation(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Checkpointing)
    monkeypatch.setattr(Checkpointing, "may_end", asyncio.Event())
    Checkpointing.may_end.set()
    session_id = (await store.change(world.open)).change.session_id
    interrupt = action(kind="change_agent_state", waits=False)
    await store.append(Append(session_id, [interrupt]))

    def told() -> list[str]:
        return stored(session_id)[0]

    async with hosted(world, session_id, store):
        await until(store, lambda: told() == ["heard"], "the interrupt")
    await store.change(lifecycle.hand_over, session_id, world.worker, "it stops")
    await store.append(Append(session_id, [action()]))
    async with hosted(world, session_id, store):
        await until(store, lambda: told() == ["heard", "answer"], "the answer, and nothing else")


async def test_a_lease_that_is_over_lets_no_action_begin(world: World, store: Store, settings: Any) -> None:
    """The process was suspended: another worker may handle the actions that came meanwhile."""
    use(settings, Answering)
    session_id = (await store.change(world.open)).change.session_id
    await store.append(Append(session_id, [action()]))
    async with hosted(world, session_id, store, lease_is_over=True) as (_, task):
        with pytest.raises(StaleEpoch):
            async with asyncio.timeout(LIMIT):
                await task
    assert await store.database.read(stored, session_id) == ([], -1)


async def test_a_lease_that_was_renewed_lets_actions_begin(world: World, store: Store, settings: Any) -> None:
    use(settings, Answering)
    session_id = (await store.change(world.open)).change.session_id
    number = (await store.append(Append(session_id, [action()]))).numbers[0]
    async with hosted(world, session_id, store, lease_is_over=True) as (host, _):
        host.feed(time.monotonic())
        await until(store, lambda: stored(session_id) == (["answer"], number), "the answer")


async def test_a_program_that_a_lost_lease_forbids_is_no_crash_of_the_session(
    world: World, store: Store, settings: Any
) -> None:
    use(settings, Spawning)
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store, lease_is_over=True) as (_, task):
        with pytest.raises(StaleEpoch):
            async with asyncio.timeout(LIMIT):
                await task
    row = await store.database.read(session, session_id)
    assert (row.state, row.crashes, row.worker_id) == ("starting", 0, world.worker)


async def test_a_program_is_dead_before_anybody_else_may_have_its_session(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Spawning)
    monkeypatch.setattr(Spawning, "seconds", "1000")
    alive: list[bool] = []
    release = lifecycle.release

    def release_and_look(*args: Any, **kwargs: Any) -> Any:
        alive.append(Spawning.lives())
        return release(*args, **kwargs)

    monkeypatch.setattr(lifecycle, "release", release_and_look)
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store) as (host, task):
        await until(store, lambda: host.phase is HostPhase.RUNNING, "a runtime that is ready")
        assert Spawning.lives()
        assert await host.try_passivate("the test wants it")
        async with asyncio.timeout(LIMIT):
            await task
    assert alive == [False]


async def test_a_program_lives_on_while_its_worker_renews_its_lease(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Spawning)
    settings.OHSESSIONS |= {"LEASE_TTL": 2}
    monkeypatch.setattr(Spawning, "seconds", "2")
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store) as (host, _):
        await until(store, lambda: host.phase is HostPhase.RUNNING, "a runtime that is ready")
        host.feed(time.monotonic() + LIMIT)
        async with asyncio.timeout(LIMIT):
            assert await Spawning.program.wait() == 0


async def test_a_busy_runtime_is_neither_passivated_when_it_is_due_nor_drained_at_once(
    world: World, store: Store, settings: Any
) -> None:
    use(settings, Busy)
    session_id = (await store.change(world.open, "a")).change.session_id
    async with hosted(world, session_id, store) as (host, task):
        await until(store, lambda: host.phase is HostPhase.RUNNING, "a runtime that is ready")
        await store.change(lifecycle.detach, "a", "gone")
        world.clock.advance(conf.CLOSE_DELAY + 1)
        assert not await host.try_passivate()
        assert not await host.drain("its worker stopped", limit=0.01)
        world.clock.advance(conf.MAX_BUSY)
        assert await host.try_passivate()
        async with asyncio.timeout(LIMIT):
            await task
    assert (await store.database.read(session, session_id)).state == "passivated"


async def test_a_drain_passivates_nothing_while_an_action_is_under_way(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Breaking)
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    session_id = (await store.change(world.open)).change.session_id
    await store.append(Append(session_id, [action()]))
    async with hosted(world, session_id, store) as (host, _):
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
        assert not await host.drain("its worker stopped", limit=0.01)
        assert not host.is_passivating


async def test_an_action_that_still_runs_when_max_busy_is_over_is_cut_off_and_told_with_its_reason(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Breaking, MAX_BUSY=100)
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    session_id = (await store.change(world.open, "a")).change.session_id
    begun, waiting = [(await store.append(Append(session_id, [action()]))).numbers[0] for _ in range(2)]
    async with hosted(world, session_id, store) as (host, task):
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
        await store.change(lifecycle.detach, "a", "gone")
        world.clock.advance(conf.CLOSE_DELAY + 99)
        assert not await host.try_passivate()
        world.clock.advance(1)
        assert await host.try_passivate()
        async with asyncio.timeout(LIMIT):
            await task
    rows = Event.objects.filter(session=session_id, kind="error").order_by("number")
    told = [json.loads(text) for text in await store.database.read(lambda: [row.data for row in rows])]
    assert [(event["cause"], event["extras"]["reason"]) for event in told] == [
        (begun, "interrupted"),
        (waiting, "interrupted"),
    ]
    assert "operator" not in told[0]["content"]
    row = await store.database.read(session, session_id)
    assert (row.state, row.handled_number) == ("passivated", waiting)


async def test_an_activation_that_has_ended_claims_no_passivation(
    world: World, store: Store, settings: Any
) -> None:
    use(settings, Answering)
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store) as (host, task):
        await until(store, lambda: host.phase is HostPhase.RUNNING, "a runtime that is ready")
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT)
        assert host.phase is HostPhase.ENDED
        assert not await host.try_passivate("the test wants it")
    assert (await store.database.read(session, session_id)).state == "running"


async def test_an_activation_that_ends_while_its_passivation_is_claimed_stays_ended(
    world: World, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, Answering)
    claiming, may_claim = threading.Event(), threading.Event()
    claim = lifecycle.claim_passivation

    def claim_slowly(*args: Any, **kwargs: Any) -> Any:
        claiming.set()
        assert may_claim.wait(LIMIT)
        return claim(*args, **kwargs)

    monkeypatch.setattr(lifecycle, "claim_passivation", claim_slowly)
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store) as (host, task):
        await until(store, lambda: host.phase is HostPhase.RUNNING, "a runtime that is ready")
        passivation = asyncio.create_task(host.try_passivate("the test wants it"))
        try:
            assert await asyncio.to_thread(claiming.wait, LIMIT)
            assert (host.phase, host.is_passivating) == (HostPhase.CLAIMING, True)
            task.cancel()
            await asyncio.wait([task], timeout=LIMIT)
        finally:
            may_claim.set()
        async with asyncio.timeout(LIMIT):
            assert not await passivation
        assert host.phase is HostPhase.ENDED
