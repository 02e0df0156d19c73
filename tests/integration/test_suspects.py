"""A session that kills its workers is found and fails; other sessions in the same workers do not fail."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from uuid import UUID

import pytest

from ohsessions import lifecycle
from ohsessions.core import policy
from ohsessions.database import database_now
from ohsessions.models import Process, Session
from ohsessions.processes import leases
from tests.integration.world import World, session

GONE = "its worker is gone"
KINDS = {"starting": 0, "ready": 1, "for a while": 20}


class Workers:
    """Workers of a site that start sessions and die; each has a successor at once."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.ids = [world.worker, *(leases.register(Process.Kind.WORKER) for _ in range(count - 1))]
        self.deaths = 0

    def start_what_waits(self, random: Random, killer: UUID) -> None:
        """Start all waiting sessions, but do not let the killer become ready."""
        for session_id, _ in lifecycle.wanted(self.ids[0], 1000).sessions:
            won = lifecycle.claim(session_id, random.choice(self.ids))
            if won is not None and session_id != killer:
                lifecycle.run(session_id, won[0].epoch)

    def die(self, worker: UUID, after: float = 0.0) -> None:
        """Let a worker die, notice its death `after` seconds later, and hand its sessions over."""
        leases.renew(worker, 0)
        leases.mark_gone(worker)
        self.world.clock.advance(after)
        left = lifecycle.left_behind(worker, 1000)
        for session_id in left:
            lifecycle.hand_over(session_id, worker, GONE, died=True)
        self.ids[self.ids.index(worker)] = leases.register(Process.Kind.WORKER)
        self.deaths += 1


@pytest.fixture
def workers(world: World) -> Workers:
    return Workers(world, 3)


@pytest.mark.parametrize("kills_after", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("noticed_after", [0, 10])
def test_the_session_that_kills_its_workers_fails_and_no_other(
    world: World, workers: Workers, kills_after: int, noticed_after: int
):
    random = Random(1)
    killer, *others = [world.open().change.session_id for _ in range(12)]
    while (row := session(killer)).state != "failed" and workers.deaths < 30:
        if row.worker_id and (database_now() - row.state_at).total_seconds() >= kills_after:
            workers.die(row.worker_id, noticed_after)
        workers.start_what_waits(random, UUID(int=0) if kills_after else killer)
        world.clock.advance(max(0.5, kills_after / 8))
    assert session(killer).state == "failed"
    assert session(killer).reason.startswith(GONE)
    assert not Session.objects.filter(pk__in=others, state="failed").exists()


def test_who_is_as_suspect_as_others_is_started_at_another_time(world: World, workers: Workers):
    ids = [world.open().change.session_id for _ in range(3)]
    for session_id in ids:
        world.claim(session_id)
    workers.die(world.worker)
    rows = [session(session_id) for session_id in ids]
    assert [(row.state, row.crashes) for row in rows] == [("starting", 0)] * 3
    assert len({row.retry_at for row in rows}) == 3
    latest = world.clock.now() + timedelta(seconds=policy.suspects_delay(policy.VERY_SUSPECT))
    assert all(world.clock.now() <= row.retry_at <= latest for row in rows)


@pytest.mark.parametrize(("ran", "suspicion"), [(0, 2), (4.9, 2), (5, 1), (59.9, 1), (60, 0)])
@pytest.mark.parametrize("noticed_after", [0, 10])
def test_what_counts_is_how_long_it_had_run_when_its_worker_died(
    world: World, workers: Workers, ran: float, suspicion: int, noticed_after: float
):
    """The time until the death was noticed does not count."""
    session_id, _ = world.run()
    world.clock.advance(ran)
    workers.die(world.worker, noticed_after)
    row = session(session_id)
    assert (row.state, row.suspicion, row.retry_at) == ("starting", suspicion, None)


def test_one_that_is_passivated_when_its_worker_dies_is_not_suspect(world: World, workers: Workers):
    session_id, epoch = world.run()
    assert lifecycle.claim_passivation(session_id, epoch, busy=False, reason="drain") is not None
    workers.die(world.worker)
    assert session(session_id).suspicion == 0


@pytest.mark.parametrize("by", ["running", "sleeping", "an operator"])
def test_suspicion_is_cleared(world: World, by: str):
    session_id, epoch = world.run()
    Session.objects.filter(pk=session_id).update(suspicion=5)
    if by == "running":
        world.clock.advance(policy.STABLE_AFTER)
        lifecycle.hand_over(session_id, world.worker, "it is drained")
    elif by == "sleeping":
        change = lifecycle.claim_passivation(session_id, epoch, busy=False, reason="it is drained")
        assert change is not None
        lifecycle.release(session_id, change.epoch, None)
    else:
        Session.objects.filter(pk=session_id).update(state="failed", worker=None)
        lifecycle.wake(session_id, by="ann")
    assert session(session_id).suspicion == 0


def test_one_that_has_run_for_long_is_no_suspect_beside_another(world: World, workers: Workers):
    """Its row still holds the old suspicion, because nobody had reason to write it."""
    stable, _ = world.run()
    Session.objects.filter(pk=stable).update(suspicion=100)
    world.clock.advance(policy.STABLE_AFTER)
    workers.ids.append(other := leases.register(Process.Kind.WORKER))
    starting = world.open().change.session_id
    assert lifecycle.claim(starting, other) is not None
    workers.die(other)
    assert session(starting).crashes == 1
