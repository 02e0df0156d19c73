"""A worker's jobs for all sessions go on while somebody holds the row of one. SQLite locks no rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from ohsessions import lifecycle
from ohsessions.core.states import State
from ohsessions.database import lanes
from ohsessions.journal import Append
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.worker.worker import SessionWorker
from tests.integration.boundaries import LIMIT, until
from tests.integration.world import World, action, in_thread, row_locked, session, wait_for_lock_waiters

IsIn = Callable[[UUID, State], Callable[[], Awaitable[bool]]]


@asynccontextmanager
async def held(session_id: UUID) -> AsyncIterator[None]:
    """Hold the row of a session inside the block."""
    with row_locked(session_id):
        async with asyncio.timeout(LIMIT / 2):
            yield


@pytest.fixture
async def store(postgres: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """Yield a store whose transactions wait for a locked row longer than the test lasts."""
    monkeypatch.setattr(lanes, "LOCK_PATIENCE", 10 * LIMIT)
    settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSE_DELAY": 0, "DEFAULT_RUNTIME": "echo"}
    store = Store()
    yield store
    await store.close()


@pytest.fixture
async def world(store: Store) -> World:
    """Return a world whose worker is gone and whose clock is the database's."""
    world = await store.change(World, None)
    await store.change(leases.mark_gone, world.worker)
    return world


@pytest.fixture
async def worker(store: Store) -> AsyncIterator[SessionWorker]:
    worker = SessionWorker(store)
    yield worker
    await worker.stop("the test is over")


@pytest.fixture
def is_in(store: Store) -> IsIn:
    """Return a function that makes a check whether a session is in a state."""

    def make(session_id: UUID, state: State) -> Callable[[], Awaitable[bool]]:
        async def ask() -> bool:
            return (await store.database.read(session, session_id)).state == state

        return ask

    return make


async def test_a_locked_session_keeps_no_other_stray_waiting(
    store: Store, world: World, worker: SessionWorker
) -> None:
    sessions = [(await store.change(world.open, sid)).change.session_id for sid in ("a", "b")]
    for session_id, sid in zip(sessions, ("a", "b"), strict=True):
        await store.change(lifecycle.detach, sid, "gone")
        await store.change(lifecycle.settle, session_id, "the test")
        await store.append(Append(session_id, [action()]))
    assert await store.database.read(lifecycle.strays) == sessions
    locked, free = sessions
    async with held(locked):
        await worker.start()
        await until(lambda: handled(store, free), "the action of the other one handled")
    await until(lambda: handled(store, locked), "the action of the one that was locked handled")


async def handled(store: Store, session_id: UUID) -> bool:
    row = await store.database.read(session, session_id)
    return row.handled_number == row.last_action_number >= 0


async def test_a_locked_session_keeps_no_other_one_waiting_for_a_worker(
    store: Store, world: World, worker: SessionWorker, is_in: IsIn
) -> None:
    locked = (await store.change(world.open, "a")).change.session_id
    async with held(locked):
        await worker.start()
        await asyncio.to_thread(in_thread(wait_for_lock_waiters))
        free = (await store.change(world.open, "b")).change.session_id
        await until(is_in(free, State.RUNNING), "the other one running")
    await until(is_in(locked, State.RUNNING), "the one that was locked running")


async def test_a_locked_session_that_is_due_keeps_no_other_one_awake(
    store: Store, world: World, worker: SessionWorker, is_in: IsIn
) -> None:
    locked, free = [(await store.change(world.open, sid)).change.session_id for sid in ("a", "b")]
    await worker.start()
    for session_id in (locked, free):
        await until(is_in(session_id, State.RUNNING), "both running")
    await store.change(lifecycle.detach, "a", "gone")
    async with held(locked):
        await asyncio.to_thread(in_thread(wait_for_lock_waiters))
        await store.change(lifecycle.detach, "b", "gone")
        await until(is_in(free, State.PASSIVATED), "the other one asleep")
    await until(is_in(locked, State.PASSIVATED), "the one that was locked asleep")
