"""Activations that end at the worst moment. The database is the real one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from django.core.files.base import File
from django.core.files.storage import InMemoryStorage, default_storage

from ohsessions import journal, leases, lifecycle, snapshots
from ohsessions.core.runtime import JSON, Action, BlockingRuntime, Runtime
from ohsessions.journal import Append
from ohsessions.models import Event, Session
from ohsessions.services import Services
from ohsessions.worker import host as host_module
from ohsessions.worker.host import SessionHost
from ohsessions.worker.worker import SessionWorker
from tests.integration.world import World, action, in_thread

LIMIT = 10.0


class Answering(Runtime):
    """Answers each action with one event and a checkpoint."""

    async def handle(self, action: Action) -> None:
        self.context.checkpoint({"last": action.id})
        await self.context.emit(observation="answer", content="")


def stored(session_id: UUID) -> tuple[list[str], int]:
    """The kinds of what the runtime wrote, and the number up to which the actions are handled."""
    kinds = Event.objects.filter(session=session_id, source="agent").values_list("kind", flat=True)
    return list(kinds), Session.objects.get(pk=session_id).handled_number


class Breaking(Runtime):
    """Breaks in the middle of an action, when a test says so."""

    handling, may_break = asyncio.Event(), asyncio.Event()

    async def handle(self, action: Action) -> None:
        self.handling.set()
        await self.may_break.wait()
        raise ValueError("broken")


async def test_a_stop_does_not_wait_for_the_action_of_a_runtime_that_breaks_meanwhile(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"BACKEND": f"{__name__}.Breaking", "OPTIONS": {}}
    settings.OHSESSIONS = {"RUNTIMES": {"echo": entry}, "PASSIVATE_TIMEOUT": 3 * LIMIT}
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    services = Services()
    worker = SessionWorker(services)
    await worker.start()
    try:
        session_id = (await services.change(world.open)).change.session_id
        await services.append(Append(session_id, [action()]))
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
        stopping = asyncio.create_task(worker.stop("the test is over"))
        await asyncio.sleep(0)
        Breaking.may_break.set()
        async with asyncio.timeout(LIMIT):
            await stopping
    finally:
        await services.close()


async def test_an_interrupt_that_was_only_being_read_when_the_runtime_broke_is_left_to_the_next_one(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OHSESSIONS = {"RUNTIMES": {"echo": {"BACKEND": f"{__name__}.Breaking", "OPTIONS": {}}}}
    monkeypatch.setattr(Breaking, "handling", asyncio.Event())
    monkeypatch.setattr(Breaking, "may_break", asyncio.Event())
    reading, may_read = threading.Event(), threading.Event()
    read = journal.read_action

    def read_slowly(session_id: UUID, number: int) -> Action:
        found = read(session_id, number)
        if found.type == "change_agent_state":
            reading.set()
            assert may_read.wait(LIMIT)
        return found

    monkeypatch.setattr(journal, "read_action", read_slowly)
    services = Services()
    try:
        session_id = (await services.change(world.open)).change.session_id
        won = await services.change(lifecycle.claim, session_id, world.worker)
        assert won is not None
        interrupt = action(kind="change_agent_state", waits=False)
        await services.append(Append(session_id, [action(), interrupt]))
        running = asyncio.create_task(SessionHost(services, won[0], time.monotonic()).run())
        assert await asyncio.to_thread(reading.wait, LIMIT)
        async with asyncio.timeout(LIMIT):
            await Breaking.handling.wait()
            Breaking.may_break.set()
            await running
    finally:
        may_read.set()
        await services.close()
    row = await asyncio.to_thread(in_thread(Session.objects.get, pk=session_id))
    assert (row.handled_number, row.interrupted_number) == (row.last_action_number, -1)


async def test_a_cancelled_activation_stores_no_end_of_an_answer_without_the_mark(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OHSESSIONS = {"RUNTIMES": {"echo": {"BACKEND": f"{__name__}.Answering", "OPTIONS": {}}}}
    storing, may_store = threading.Event(), threading.Event()

    def inline(value: Any) -> Any:
        storing.set()
        assert may_store.wait(LIMIT)
        return snapshots.Snapshot(value)

    monkeypatch.setattr(snapshots, "_inline", inline)
    services = Services()
    try:
        session_id = (await services.change(world.open)).change.session_id
        won = await services.change(lifecycle.claim, session_id, world.worker)
        assert won is not None
        before = await services.database.read(stored, session_id)
        await services.append(Append(session_id, [action()]))
        host = SessionHost(services, won[0], time.monotonic())
        task = asyncio.create_task(host.run())
        assert await asyncio.to_thread(storing.wait, LIMIT)
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT)
        may_store.set()
        assert task.cancelled()
    finally:
        may_store.set()
        await services.close()  # after what was in line
    assert await asyncio.to_thread(in_thread(stored, session_id)) == before


class Stuck(BlockingRuntime):
    """Handles its action until the test is over."""

    may_end = threading.Event()

    def do_handle(self, action: Action) -> None:
        self.emit(observation="handling")
        assert self.may_end.wait(2 * LIMIT)


class Keeping(Runtime):
    """Has a snapshot that is a file."""

    async def passivate(self) -> JSON:
        return "x" * 70_000


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Services]:
    """A worker is at work; its end, and that of the services, must not take long."""
    services = Services()
    await services.change(leases.mark_gone, world.worker)
    worker = SessionWorker(services)
    await worker.start()
    try:
        yield services
    finally:
        async with asyncio.timeout(LIMIT):
            await worker.stop("the test is over")
            await services.close()


async def until(services: Services, true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not await services.database.read(true):
        assert time.monotonic() < end, f"waited {LIMIT} s for {what}"
        await asyncio.sleep(0.02)


async def asleep(services: Services, session_id: UUID) -> Session:
    """An operator puts a session to sleep; gives its row then."""
    sleeping = Session.objects.filter(pk=session_id, state="passivated")
    change, _ = await services.change(lifecycle.force_passivation, session_id, by="ann")
    await services.announce(change)
    await until(services, sleeping.all().exists, "the session sleeping")
    return await services.database.read(sleeping.get)


async def test_blocking_code_that_never_returns_is_given_up_and_holds_up_nobody(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes = {name: {"BACKEND": f"{__name__}.{name}", "OPTIONS": {}} for name in ("Stuck", "Keeping")}
    settings.OHSESSIONS = {"RUNTIMES": runtimes, "PASSIVATE_TIMEOUT": 0.5}
    monkeypatch.setattr(host_module, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(Stuck, "may_end", threading.Event())
    # asyncio's own threads are few in any process; here all of them hang as well.
    executor = ThreadPoolExecutor(1)
    executor.submit(Stuck.may_end.wait, 2 * LIMIT)
    asyncio.get_running_loop().set_default_executor(executor)
    try:
        async with working(world) as services:
            stuck, keeping = [
                (await services.change(world.open, args={"runtime": name})).change.session_id
                for name in runtimes
            ]
            await services.append(Append(stuck, [action()]))
            await until(services, lambda: stored(stuck)[0] == ["handling"], "the action being handled")
            running = Session.objects.filter(pk=keeping, state="running")
            await until(services, running.all().exists, "the other session running")
            assert (await asleep(services, keeping)).snapshot_file
            problem = "TimeoutError: saving its state took longer than 0.5 s; its last checkpoint counts"
            assert (await asleep(services, stuck)).reason == f"by an operator; {problem}"
    finally:
        Stuck.may_end.set()


class HangingStorage(InMemoryStorage):
    """Saves nothing until a test says so."""

    may_save = threading.Event()

    def _save(self, name: str, content: File[bytes]) -> str:
        assert self.may_save.wait(2 * LIMIT)
        return super()._save(name, content)


async def test_a_storage_that_hangs_keeps_no_session_from_sleeping(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"BACKEND": f"{__name__}.Keeping", "OPTIONS": {}}
    settings.OHSESSIONS = {"RUNTIMES": {"echo": entry}, "PASSIVATE_TIMEOUT": 0.2}
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": f"{__name__}.HangingStorage"}}
    monkeypatch.setattr(HangingStorage, "may_save", threading.Event())
    try:
        async with working(world) as services:
            session_id = (await services.change(world.open)).change.session_id
            running = Session.objects.filter(pk=session_id, state="running")
            await until(services, running.all().exists, "the session running")
            row = await asleep(services, session_id)
            problem = "TimeoutError: saving its state took longer than 0.2 s; its last checkpoint counts"
            assert (row.reason, row.snapshot_file) == (f"by an operator; {problem}", "")
    finally:
        HangingStorage.may_save.set()


async def test_a_snapshot_that_cannot_be_read_fails_its_session(world: World, settings: Any) -> None:
    settings.OHSESSIONS = {"RUNTIMES": {"echo": {"BACKEND": f"{__name__}.Answering", "OPTIONS": {}}}}
    services = Services()
    try:
        session_id, epoch = await services.change(world.run)
        large = await snapshots.astore(session_id, "x" * 70_000)
        await services.append(Append(session_id, epoch=epoch, checkpoint=large))
        await services.change(default_storage.delete, large.file)
        await services.change(lifecycle.hand_over, session_id, world.worker, "gone")
        rows = []
        for _ in range(3):
            world.clock.advance(60)
            won = await services.change(lifecycle.claim, session_id, world.worker)
            assert won is not None
            await SessionHost(services, won[0], time.monotonic()).run()
            rows.append(await services.database.read(Session.objects.get, pk=session_id))
    finally:
        await services.close()
    assert [row.state for row in rows] == ["starting", "starting", "failed"]
    reason = "it could not start: RuntimeFailure: its snapshot cannot be read: FileNotFoundError"
    assert {row.reason for row in rows} == {reason}


class Growing(Runtime):
    """Has a checkpoint that is a file."""

    async def handle(self, action: Action) -> None:
        self.context.checkpoint("x" * 70_000)


class FailingStorage(InMemoryStorage):
    """Saves nothing."""

    def _save(self, name: str, content: File[bytes]) -> str:
        raise OSError("no space left")


PROBLEMS = {
    "HangingStorage": "TimeoutError: storing its checkpoint took longer than 0.2 s",
    "FailingStorage": "OSError: no space left",
}


@pytest.mark.parametrize("storage", PROBLEMS)
async def test_a_checkpoint_that_cannot_be_stored_is_a_crash_that_is_told_and_stored(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    entry = {"BACKEND": f"{__name__}.Growing", "OPTIONS": {}}
    settings.OHSESSIONS = {"RUNTIMES": {"echo": entry}, "PASSIVATE_TIMEOUT": 0.2}
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": f"{__name__}.{storage}"}}
    monkeypatch.setattr(HangingStorage, "may_save", threading.Event())
    try:
        async with working(world) as services:
            session_id = (await services.change(world.open)).change.session_id
            (number,) = (await services.append(Append(session_id, [action()]))).numbers
            crashed = Session.objects.filter(pk=session_id, crashes=1)
            await until(services, crashed.all().exists, "the crash being stored")
            row = await services.database.read(crashed.get)
            told = Event.objects.filter(session=session_id, kind="error")
            (error,) = await services.database.read(lambda: list(told))
    finally:
        HangingStorage.may_save.set()
    reason = f"its runtime broke: {PROBLEMS[storage]}"
    assert (row.state, row.reason, row.handled_number) == ("starting", reason, number)
    assert f"Sorry, {reason}." in error.data
