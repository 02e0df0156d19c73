"""Sessions that are interrupted at each transaction: nothing is lost, run twice, or left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.core.files.storage import default_storage

from ohsessions import lifecycle, snapshots
from ohsessions.core import wire
from ohsessions.core.clock import FakeClock
from ohsessions.database import database_clock
from ohsessions.models import Connection, Event, Session
from ohsessions.processes import leases
from tests.integration import boundaries
from tests.integration.boundaries import (
    UNHURRIED,
    Boundary,
    Counted,
    GatedDatabase,
    Site,
    Visitor,
    When,
    until,
)
from tests.tasks import check_tasks

SAMPLE = int(os.environ.get("OHSESSIONS_TEST_BOUNDARIES", "3"))
"""How many random interruptions of each scenario are tried; 0 means all of them."""
CLIENT_ID = "the same INIT, however often"
SETTINGS = {
    "RUNTIMES": {"counted": {"BACKEND": f"{boundaries.__name__}.Counted", "OPTIONS": {}}},
    "ALLOW_ANONYMOUS": True,
    "CLOSE_DELAY": 15,
    "HEARTBEAT": 2,
    "LEASE_TTL": 600,
}


# Scenarios, which are interrupted. Each prepares, arms the gate by `begin`, acts, and waits until it is over.

Begin = Callable[[], None]
Scenario = Callable[[Site, Begin], Awaitable[None]]


async def running(site: Site) -> Visitor:
    """Return the client of a new session that runs."""
    visitor = await site.visitor()
    await visitor.ask("initialize", client_id=CLIENT_ID)
    await visitor.settle()
    return visitor


async def sleeping(site: Site) -> Visitor:
    """Let a session sleep, and return its creator, which has left."""
    visitor = await running(site)
    await visitor.leave()
    await until(site.sleeps, "sleeping")
    return visitor


async def init_new(site: Site, begin: Begin) -> None:
    visitor = await site.visitor()
    begin()
    await visitor.ask("initialize", client_id=CLIENT_ID)
    await visitor.settle()


async def init_join(site: Site, begin: Begin) -> None:
    first = await running(site)
    visitor = await site.visitor()
    begin()
    await visitor.ask("initialize", token=first.token)


async def init_that_wakes(site: Site, begin: Begin) -> None:
    first = await sleeping(site)
    visitor = await site.visitor()
    begin()
    await visitor.ask("initialize", token=first.token)
    await visitor.settle()


async def init_elsewhere(site: Site, begin: Begin) -> None:
    """Let a client leave its session for a new one."""
    visitor = await running(site)
    begin()
    await visitor.ask("initialize", client_id=CLIENT_ID[::-1])
    await visitor.settle()


async def last_disconnect(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    begin()
    await visitor.leave()
    await until(site.sleeps_or_is_visited, "sleeping")


async def action(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    begin()
    await visitor.ask("say")
    await visitor.settle()


async def interrupt(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    begin()
    await visitor.ask("wait")
    await visitor.ask("change_agent_state", args={"agent_state": "stopped"})
    await visitor.settle()


async def close(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    await visitor.ask("say")
    begin()
    await visitor.ask("close")


async def gateway_stop(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    begin()
    await site.stop_gateway()
    await until(lambda: visitor.closed, "its client sent away")


async def drain(site: Site, begin: Begin) -> None:
    visitor = await running(site)
    begin()
    asking = asyncio.create_task(visitor.ask("say"), name="asking")
    await stop_its_worker(site)
    await asking
    await visitor.settle()


SCENARIOS = [
    init_new,
    init_join,
    init_that_wakes,
    init_elsewhere,
    last_disconnect,
    action,
    interrupt,
    close,
    drain,
    gateway_stop,
]


# Intruders: others act meanwhile, to the end or until they have to wait for the stopped transaction.


async def client_vanishes(site: Site) -> None:
    await site.visitors[-1].leave()


async def client_is_cancelled(site: Site) -> None:
    site.visitors[-1].cancel_work()
    await site.visitors[-1].leave()


async def another_attaches(site: Site) -> None:
    visitor = await site.visitor()
    tokens = [one.token for one in site.visitors if one.token]
    await visitor.ask("initialize", **({"token": tokens[0]} if tokens else {"client_id": CLIENT_ID}))


async def somebody_acts(site: Site) -> None:
    """Act while the INIT of the same client is under way."""
    visitor = await site.visitor()
    tokens = [one.token for one in site.visitors if one.token]
    asking = asyncio.create_task(visitor.ask("say"), name="asking")
    await visitor.ask("initialize", **({"token": tokens[0]} if tokens else {"client_id": CLIENT_ID}))
    await asking
    await visitor.leave()


async def it_is_closed(site: Site) -> None:
    for session in await site.sessions():
        await site.store.change(lifecycle.close, session.pk, by="ann")


async def an_operator_passivates(site: Site) -> None:
    for session in await site.sessions():
        await site.store.change(lifecycle.force_passivation, session.pk, by="ann")


async def stop_its_worker(site: Site) -> None:
    worker = await site.owner()
    if not set(site.workers) & set(site.stopped):
        site.stopped.append(worker)
        await worker.stop("it was told to")


async def its_worker_lets_go(site: Site) -> None:
    """Let the worker notice first that its lease is over."""
    await (await site.owner()).lost("the test wants it")


async def its_worker_is_declared_gone(site: Site) -> None:
    """Mark the worker as gone: it notices that, and the session goes on elsewhere."""
    membership = (await site.owner())._membership
    former = membership.process_id
    await site.store.change(leases.mark_gone, former)
    await membership.renew()
    await until(lambda: site.goes_on_without(former), "it going on under another worker")


async def its_gateway_is_declared_gone(site: Site) -> None:
    membership = site.gateway._membership
    await site.store.change(leases.mark_gone, membership.process_id)
    await membership.renew()


async def time_passes(site: Site) -> None:
    site.clock.advance(3600)


async def the_layer_forgets(site: Site) -> None:
    await get_channel_layer().flush()


INTRUDERS = [
    client_vanishes,
    client_is_cancelled,
    another_attaches,
    somebody_acts,
    it_is_closed,
    an_operator_passivates,
    stop_its_worker,
    its_worker_lets_go,
    its_worker_is_declared_gone,
    its_gateway_is_declared_gone,
    time_passes,
    the_layer_forgets,
]
Intruder = Callable[[Site], Awaitable[None]]
Interruption = tuple[Boundary, When, Intruder | None]


def interruptions(seen: list[Boundary]) -> list[Interruption]:
    lost: list[Interruption] = [(one, when, None) for one in seen for when in (When.REFUSED, When.LOST)]
    times = (When.BEFORE, When.AFTER)
    return lost + [(one, when, intruder) for one in seen for when in times for intruder in INTRUDERS]


# One run


async def play(site: Site, scenario: Scenario, interruption: Interruption | None) -> bool:
    """Play the scenario with its interruption to the end, and return whether it reached the interruption."""
    boundary, when, intruder = interruption or (None, When.BEFORE, None)
    gated = site.database
    acting = asyncio.create_task(scenario(site, lambda: gated.arm(boundary, when)), name="scenario")
    # The scenario may also end without the boundary, because periodic reads do not happen each time.
    await until(lambda: acting.done() or gated.reached.is_set(), "the boundary, or the end")
    if intruder is not None and gated.reached.is_set():
        intruding = asyncio.create_task(intruder(site), name="intruder")
        await asyncio.wait([intruding], timeout=UNHURRIED)
        gated.opened.set()
        await intruding
    gated.opened.set()
    await acting
    return gated.reached.is_set()


async def check(site: Site) -> None:
    """Let everybody leave, and check that nothing is left but rows."""
    await site.everybody_leaves()
    Counted.released.set()
    await until(lambda: is_over(site), site.report)
    for life in Counted.lives:
        assert life.alone, "two runtimes of a session at once"
        assert life.notes in ([], ["start", "close"], ["close"]), life.notes
    for session in await site.sessions():
        await check_session(site, session)
    await site.database.look(check_files)
    for visitor in site.visitors:
        for stream in visitor.streams:
            assert stream == [*range(stream[0], stream[0] + len(stream))] if stream else True


async def is_over(site: Site) -> bool:
    open_rows = await site.database.look(Connection.objects.filter(ended_at=None).count)
    return await site.sleeps() and not open_rows and not site.leftovers()


async def check_session(site: Site, session: Session) -> None:
    assert session.worker_id is None
    assert session.forced_by == ""
    assert session.passivate_at is None
    rows = await site.database.look(lambda: list(Event.objects.filter(session=session).order_by("number")))
    assert [row.number for row in rows] == [*range(session.next_number)]
    asked = {row.number: row.kind for row in rows if row.source == "user"}
    actions = {number for number, kind in asked.items() if kind not in wire.INTERRUPTS}
    acknowledged = {n for one in site.visitors for pk, n in one.acknowledged if pk == str(session.pk)}
    assert acknowledged <= set(asked)
    handled = [n for life in Counted.lives if life.context.session_id == session.pk for n in life.handled]
    assert len(handled) == len(set(handled)), "an action was begun twice"
    answers = [(row.kind, json.loads(row.data)) for row in rows if row.kind in ("answer", "error")]
    causes = {answer["cause"] for _, answer in answers if "cause" in answer}
    closed = [a["cause"] for _, a in answers if a["extras"].get("reason") == "session_closed"]
    for number in actions:
        assert number in causes or any(first <= number for first in closed), f"{number} is unanswered"


def check_files() -> None:
    snapshots.sweep()
    named = {row.snapshot_file for row in Session.objects.exclude(snapshot_file="")}
    try:
        files = default_storage.listdir(snapshots.FOLDER)[1]
    except FileNotFoundError:  # no snapshot was stored yet: the session was closed too early
        files = []
    assert {f"{snapshots.FOLDER}/{name}" for name in files} == named


@pytest.fixture
def quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all periodic jobs at once."""
    settings.OHSESSIONS = SETTINGS
    for name in (
        "ohsessions.worker.worker.LOOK_EVERY",
        "ohsessions.worker.worker.RECONCILE_EVERY",
        "ohsessions.gateway.gateway.RECONCILE_EVERY",
        "ohsessions.processes.reaper.REAP_EVERY",
        "ohsessions.processes.store.RETRY_FIRST",
        "ohsessions.processes.store.RETRY_MOST",
        "ohsessions.worker.outbox.RETRY_FIRST",
        "ohsessions.worker.outbox.RETRY_MOST",
    ):
        monkeypatch.setattr(name, 0.02)
    monkeypatch.setattr("ohsessions.worker.worker.PATIENCE", 0.0)
    monkeypatch.setattr("ohsessions.gateway.pump.PRESENCE_PAUSE", 0.0)
    monkeypatch.setattr(snapshots, "SPARED", timedelta(0))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_whatever_comes_between_two_transactions_nothing_is_left_over(
    database: str, quick: None, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    gated = GatedDatabase()
    try:
        await run(gated, scenario, None, caplog)
        every = interruptions(gated.seen)
        for interruption in random.sample(every, min(SAMPLE, len(every))) if SAMPLE else every:
            await run(gated, scenario, interruption, caplog)
    finally:
        await gated.close()


@pytest.mark.parametrize(
    ("scenario", "boundary", "when", "intruder"),
    [
        (init_that_wakes, Boundary("claim", 0), When.AFTER, its_worker_is_declared_gone),
        (gateway_stop, Boundary("write_off", 0), When.REFUSED, None),
        (gateway_stop, Boundary("write_off", 0), When.BEFORE, another_attaches),
    ],
)
async def test_what_left_something_over_once_does_so_no_more(
    database: str,
    quick: None,
    caplog: pytest.LogCaptureFixture,
    scenario: Scenario,
    boundary: Boundary,
    when: When,
    intruder: Intruder | None,
) -> None:
    gated = GatedDatabase()
    try:
        assert await run(gated, scenario, (boundary, when, intruder), caplog)
    finally:
        await gated.close()


async def run(
    gated: GatedDatabase,
    scenario: Scenario,
    interruption: Interruption | None,
    caplog: pytest.LogCaptureFixture,
) -> bool:
    """Run the whole life of a site, and return whether it reached the interruption."""
    try:
        return await _run(gated, scenario, interruption, caplog)
    except Exception as error:
        boundary, when, intruder = interruption or (None, None, None)
        by = intruder.__name__ if intruder else "nobody"
        raise AssertionError(f"{scenario.__name__}: {by} at {boundary}, {when}") from error


async def _run(
    gated: GatedDatabase,
    scenario: Scenario,
    interruption: Interruption | None,
    caplog: pytest.LogCaptureFixture,
) -> bool:
    caplog.clear()
    before = asyncio.all_tasks()
    clock = FakeClock()
    with database_clock(clock):
        gated.arm()
        site = Site(gated, clock)
        await site.start()
        try:
            interrupted = await play(site, scenario, interruption)
            seen = gated.seen
            gated.arm()
            await check(site)
        finally:
            gated.arm()
            await site.stop()
            await gated.look(Session.objects.all().delete)
        gated.seen = seen
    check_tasks(before)
    gc.collect()
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
    return interrupted
