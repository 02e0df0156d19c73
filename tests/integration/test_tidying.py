"""A worker prunes by itself, a slice at a time, and without blocking anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ohsessions import lifecycle, pruning
from ohsessions.models import Connection, Process, Session
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.worker import tidying
from ohsessions.worker.tidying import Tidying
from tests.integration.world import World, row_locked


@pytest.fixture
async def store(world: World) -> AsyncIterator[Store]:
    made = Store()
    yield made
    await made.close()


def old_connections(world: World, count: int) -> None:
    session_id, _ = world.run("open")
    for number in range(count):
        world.attach(session_id, f"old{number}")
        lifecycle.detach(f"old{number}", "gone")
    world.clock.advance(365 * 24 * 3600)


async def look(store: Store, function: Any, *args: Any) -> Any:
    return await store.database.read(function, *args)


async def test_first_worker_prunes_and_the_others_do_not(world: World, store: Store) -> None:
    await store.database.write(old_connections, world, 3)
    other = await store.database.write(leases.register, Process.Kind.WORKER)
    first, second = sorted([world.worker, other])
    await Tidying(store, lambda: second).prune()
    assert await look(store, Connection.objects.count) == 4
    await Tidying(store, lambda: first).prune()
    assert await look(store, Connection.objects.count) == 1


async def test_nothing_asks_the_database_in_the_event_loop(
    database: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The time is not queried there either; the other tests here have a clock of their own."""
    settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSED_RETENTION": 60, "EVENT_RETENTION": 60}
    store = Store()
    worker = await store.database.write(leases.register, Process.Kind.WORKER)
    await Tidying(store, lambda: worker).prune()
    await store.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_is_not_done_in_its_slice_goes_on_from_its_place(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "STEP", 2)
    await store.database.write(old_connections, world, 6)
    monkeypatch.setattr(tidying, "SLICE_SECONDS", 0.0)
    one = Tidying(store, lambda: world.worker)
    await one.prune()
    assert await look(store, Connection.objects.count) == 7
    assert pruning.Connections in one._unfinished
    begun = one._unfinished[pruning.Connections]
    monkeypatch.setattr(tidying, "SLICE_SECONDS", 5.0)
    await one.prune()
    assert begun.found == 6
    assert one._unfinished == {}


async def test_kind_that_fails_keeps_no_other_from_being_pruned(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.database.write(old_connections, world, 3)

    def fail(self: Any) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr(pruning.Transitions, "step", fail)
    await Tidying(store, lambda: world.worker).prune()
    assert await look(store, Connection.objects.count) == 1
    assert "Pruning transitions failed" in caplog.text


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_session_that_somebody_has_locked_is_passed_over(
    world: World, store: Store, settings: Any
) -> None:
    settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSED_RETENTION": 60}

    def closed(sid: str) -> Any:
        session_id, _ = world.run(sid)
        lifecycle.close(session_id, by="me")
        lifecycle.detach(sid, "gone")
        world.clock.advance(100)
        return session_id

    locked = await store.database.write(closed, "a")
    await store.database.write(closed, "b")
    one = Tidying(store, lambda: world.worker)
    with row_locked(locked):
        await one.prune()
    left = await look(store, lambda: list(Session.objects.values_list("pk", flat=True)))
    assert left == [locked]
    await one.prune()
    assert not await look(store, Session.objects.exists)
