"""A long-lived task that ends stops its process in order: the sessions go on elsewhere."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import DatabaseError

from ohsessions import lifecycle
from ohsessions.gateway.gateway import Gateway
from ohsessions.models import Session
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.worker.worker import SessionWorker
from tests.integration.world import World
from tests.tasks import check_tasks

LIMIT = 20.0
GATEWAY = ["layer", "lease", "probe", "reaper looks", "reaper takes over", "reconcile", "subscriptions"]
WORKER = [
    "claims",
    "lease",
    "listen",
    "passivations",
    "probe",
    "prune",
    "reaper looks",
    "reaper takes over",
    "reconcile",
    "sweep",
]


def named(kind: str) -> list[str]:
    """Return the names of the long-lived tasks of this kind that run now."""
    prefix = f"{kind} "
    names = (task.get_name() for task in asyncio.all_tasks())
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def end_task(name: str) -> None:
    """Cancel a task, as a library does that lets a CancelledError escape."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == name)
    task.cancel()


async def wait_for(ends: list[str]) -> str:
    async with asyncio.timeout(LIMIT):
        while not ends:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return ends.pop()


@pytest.fixture
def echo(settings: Any) -> None:
    settings.OHSESSIONS = {"RUNTIMES": {"echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"}}}


async def wait_run_by(store: Store, session: Any, worker: SessionWorker) -> None:
    rows = Session.objects.filter(pk=session, state="running", worker=worker._membership.process_id)
    async with asyncio.timeout(LIMIT):
        while not await store.database.read(rows.all().exists):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", WORKER)
async def test_a_worker_without_one_of_its_tasks_ends_and_its_session_goes_on_elsewhere(
    world: World, echo: None, process_goes_on: list[str], name: str
) -> None:
    before = asyncio.all_tasks()
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    first, second = SessionWorker(store), SessionWorker(store)
    try:
        await first.start()
        assert [one for one in named("worker") if one not in ("layer", "rejoins")] == WORKER
        opened = await store.change(world.open, "a")
        session_id = opened.change.session_id
        await wait_run_by(store, session_id, first)
        end_task(f"worker {name}")
        assert f"The task 'worker {name}' was cancelled" in await wait_for(process_goes_on)
        await second.start()
        await first.stop("its worker stopped")  # as a process that stops in order
        await wait_run_by(store, session_id, second)
    finally:
        await second.stop("the test is over")
        await store.close()
    check_tasks(before)


@pytest.mark.parametrize("name", GATEWAY)
async def test_a_gateway_without_one_of_its_tasks_ends(
    transactional_db: None, process_goes_on: list[str], name: str
) -> None:
    before = asyncio.all_tasks()
    store = Store()
    gateway = Gateway(store)
    await gateway.start()
    assert named("gateway") == GATEWAY
    end_task(f"gateway {name}")
    assert f"The task 'gateway {name}' was cancelled" in await wait_for(process_goes_on)
    await gateway.stop("draining")
    await store.close()
    check_tasks(before)


async def test_a_listener_that_the_layer_cancels_takes_the_worker_along(
    transactional_db: None, process_goes_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of the layer lets a CancelledError escape from `receive`, although nobody cancelled it."""

    async def cancel(self: object, channel: str) -> None:
        raise asyncio.CancelledError

    store = Store()
    worker = SessionWorker(store)
    monkeypatch.setattr("ohsessions.wakeups.Hearing.receive", cancel)
    await worker.start()
    assert "The task 'worker listen'" in await wait_for(process_goes_on)
    await worker.stop("the test is over")
    await store.close()


async def test_a_stop_that_meets_an_error_saves_the_other_sessions(
    world: World, echo: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    await store.change(leases.mark_gone, world.worker)
    worker = SessionWorker(store)
    await worker.start()
    opened = [(await store.change(world.open, sid)).change.session_id for sid in "abc"]
    for session_id in opened:
        await wait_run_by(store, session_id, worker)
    for sid in "abc":
        await store.change(lifecycle.detach, sid, "gone")
    broken = worker._hosted.get(opened[1])
    assert broken is not None

    async def drain(reason: str, limit: float) -> bool:
        raise DatabaseError("broken")

    monkeypatch.setattr(broken, "drain", drain)
    await worker.stop("its worker stopped")
    assert "Draining session" in caplog.text
    states = await store.database.read(lambda: {row.pk: row.state for row in Session.objects.all()})
    await store.close()
    assert [states[opened[0]], states[opened[2]]] == ["passivated", "passivated"]
    assert states[opened[1]] != "running"


async def test_a_gateways_stop_goes_on_after_an_error(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    store = Store()
    gateway = Gateway(store)
    await gateway.start()
    monkeypatch.setattr(gateway, "check_lease", lambda: 1 / 0)
    await gateway.stop("draining")
    assert "Ending the connections in the database failed" in caplog.text
    rows = await store.database.read(leases.living)
    await store.close()
    assert rows == [], "it has left all the same"
    check_tasks(before)
