"""The number of runtimes that a worker starts at a time. The database is the real one."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from ohsessions.core.runtime import JSON, Runtime
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.worker import hosted
from ohsessions.worker.worker import SessionWorker
from tests.integration.boundaries import until
from tests.integration.world import World

LIMIT = 10.0


class Starting(Runtime):
    """A runtime that is ready when a test allows it."""

    begun: asyncio.Queue[UUID]
    may_start: asyncio.Queue[None]

    async def start(self, snapshot: JSON) -> None:
        self.begun.put_nowait(self.context.session_id)
        await self.may_start.get()


async def take(queue: asyncio.Queue[UUID], count: int) -> set[UUID]:
    async with asyncio.timeout(LIMIT):
        return {await queue.get() for _ in range(count)}


def let(starting: type[Starting], count: int) -> None:
    for _ in range(count):
        starting.may_start.put_nowait(None)


@pytest.fixture
def starting(world: World, settings: Any, monkeypatch: pytest.MonkeyPatch) -> type[Starting]:
    entry = {"BACKEND": f"{__name__}.Starting", "OPTIONS": {}}
    settings.OHSESSIONS = {"RUNTIMES": {"echo": entry}}
    monkeypatch.setattr(hosted, "STARTS_AT_ONCE", 2)
    monkeypatch.setattr(Starting, "begun", asyncio.Queue(), raising=False)
    monkeypatch.setattr(Starting, "may_start", asyncio.Queue(), raising=False)
    return Starting


async def test_a_worker_starts_the_next_session_when_one_is_ready(
    world: World, starting: type[Starting]
) -> None:
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    sessions = {(await store.change(world.open)).change.session_id for _ in range(4)}
    worker = SessionWorker(store)
    await worker.start()
    try:
        first = await take(starting.begun, 2)
        await worker._claim_wanted()
        await until(lambda: not worker._claiming, "the end of what is being claimed")
        assert worker.load() == 2
        let(starting, 1)
        second = await take(starting.begun, 1)
        assert worker.load() == 3
        let(starting, 3)
        assert first | second | await take(starting.begun, 1) == sessions
    finally:
        let(starting, 4)
        await worker.stop("the test is over")
        await store.close()


async def test_a_start_that_hangs_holds_up_no_other_for_long(
    world: World, starting: type[Starting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "SLOW_START", 0.05)
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    sessions = {(await store.change(world.open)).change.session_id for _ in range(5)}
    worker = SessionWorker(store)
    await worker.start()
    try:
        assert await take(starting.begun, 5) == sessions
    finally:
        let(starting, 5)
        await worker.stop("the test is over")
        await store.close()
