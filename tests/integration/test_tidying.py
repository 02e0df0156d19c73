"""A worker prunes by itself, a slice at a time, and without waiting for anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ohsessions import leases, lifecycle, pruning
from ohsessions.models import Connection, Process, Session
from ohsessions.services import Services
from ohsessions.worker import tidying
from ohsessions.worker.tidying import Tidying
from tests.integration.world import World, row_locked


@pytest.fixture
async def services(world: World) -> AsyncIterator[Services]:
    made = Services()
    yield made
    await made.close()


def old_connections(world: World, count: int) -> None:
    session_id, _ = world.run("open")
    for number in range(count):
        world.attach(session_id, f"old{number}")
        lifecycle.detach(f"old{number}", "gone")
    world.clock.advance(365 * 24 * 3600)


async def look(services: Services, function: Any, *args: Any) -> Any:
    return await services.database.read(function, *args)


async def test_first_worker_prunes_and_the_others_do_not(world: World, services: Services) -> None:
    await services.database.write(old_connections, world, 3)
    other = await services.database.write(leases.register, Process.Kind.WORKER)
    first, second = sorted([world.worker, other])
    await Tidying(services, lambda: second).prune()
    assert await look(services, Connection.objects.count) == 4
    await Tidying(services, lambda: first).prune()
    assert await look(services, Connection.objects.count) == 1


async def test_nothing_asks_the_database_in_the_event_loop(
    database: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the time either, for which the other tests here have a clock of their own."""
    settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSED_RETENTION": 60, "EVENT_RETENTION": 60}
    services = Services()
    worker = await services.database.write(leases.register, Process.Kind.WORKER)
    await Tidying(services, lambda: worker).prune()
    await services.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_is_not_done_in_its_slice_goes_on_from_its_place(
    world: World, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "STEP", 2)
    await services.database.write(old_connections, world, 6)
    monkeypatch.setattr(tidying, "SLICE", 0.0)
    one = Tidying(services, lambda: world.worker)
    await one.prune()
    assert await look(services, Connection.objects.count) == 7
    assert pruning.Connections in one._unfinished
    begun = one._unfinished[pruning.Connections]
    monkeypatch.setattr(tidying, "SLICE", 5.0)
    await one.prune()
    assert begun.found == 6
    assert one._unfinished == {}


async def test_kind_that_fails_keeps_no_other_from_being_pruned(
    world: World, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await services.database.write(old_connections, world, 3)

    def fail(self: Any) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr(pruning.Transitions, "step", fail)
    await Tidying(services, lambda: world.worker).prune()
    assert await look(services, Connection.objects.count) == 1
    assert "Pruning of transitions failed" in caplog.text


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_session_that_somebody_has_locked_is_passed_over(
    world: World, services: Services, settings: Any
) -> None:
    settings.OHSESSIONS = settings.OHSESSIONS | {"CLOSED_RETENTION": 60}

    def closed(sid: str) -> Any:
        session_id, _ = world.run(sid)
        lifecycle.close(session_id, by="me")
        lifecycle.detach(sid, "gone")
        world.clock.advance(100)
        return session_id

    locked = await services.database.write(closed, "a")
    await services.database.write(closed, "b")
    one = Tidying(services, lambda: world.worker)
    with row_locked(locked):
        await one.prune()
    left = await look(services, lambda: list(Session.objects.values_list("pk", flat=True)))
    assert left == [locked]
    await one.prune()
    assert not await look(services, Session.objects.exists)
