"""Two gateways, two workers: everything works as on one machine, and continues when one of them dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ohsessions.processes.leases import start_time
from ohsessions.programs.watchdog import descendants
from tests.acceptance.cluster import Cluster
from tests.acceptance.site import Client
from tests.requirements import RedisServer, wait_until

Connect = Callable[..., Awaitable[Client]]
Make = Callable[..., Cluster]


@pytest.mark.parametrize("layer", ["pubsub", "core"])
async def test_clients_of_two_gateways_share_a_session_live(
    make_cluster: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    monkeypatch.setenv("REDIS_LAYER", layer)
    cluster = make_cluster(CLOSE_DELAY=1)
    here = await connect(cluster.gateways[0])
    await here.initialize("shell")
    there = await connect(cluster.gateways[1])
    await there.initialize(token=here.token)
    for client, text in ((here, "one"), (there, "two")):
        acknowledged = await client.act("run", {"command": f"echo {text}"})
        for other in (here, there):
            assert await other.output(acknowledged["id"]) == (f"{text}\n", 0)
    sleeping = await here.act("run", {"command": "sleep 60"})
    await there.wait_for(action="run", id=sleeping["id"])
    await there.wait(lambda: there.events[-1].get("extras", {}).get("agent_state") == "running", "running")
    await there.act("change_agent_state", {"agent_state": "stopped"})
    assert (await here.output(sleeping["id"]))[1] == 130
    for client in (here, there):
        await client.wait(lambda client=client: is_at_prompt(client), "the prompt")
    assert here.events == there.events
    assert here.numbers == list(range(len(here.events)))


def is_at_prompt(client: Client) -> bool:
    return client.events[-1].get("extras", {}).get("agent_state") == "awaiting_user_input"


async def test_a_session_sleeps_and_wakes_on_another_worker_with_its_state(
    make_cluster: Make, connect: Connect
) -> None:
    cluster = make_cluster(CLOSE_DELAY=0)
    first = await connect(cluster.gateways[0])
    await first.initialize("shell")
    acknowledged = await first.act("run", {"command": "cd /tmp && export A=7"})
    await first.output(acknowledged["id"])
    owner = cluster.worker_of(first.session_id)
    await first.close()
    wait_until(lambda: cluster.state(first.session_id) == "passivated", "passivation")
    owner.end()
    second = await connect(cluster.gateways[1])
    await second.initialize(token=first.token)
    acknowledged = await second.act("run", {"command": "pwd; echo $A"})
    assert await second.output(acknowledged["id"]) == ("/tmp\n7\n", 0)
    assert second.events[: len(first.events)] == first.events


async def test_a_killed_workers_session_goes_on_elsewhere(make_cluster: Make, connect: Connect) -> None:
    cluster = make_cluster(LEASE_TTL=3, HEARTBEAT=0.5)
    client = await connect(cluster.gateways[0])
    await client.initialize("shell")
    acknowledged = await client.act("run", {"command": "cd /tmp && export A=7"})
    await client.output(acknowledged["id"])
    cluster.worker_of(client.session_id).end(signal.SIGKILL)
    acknowledged = await client.act("run", {"command": "pwd; echo $A"})
    assert await client.output(acknowledged["id"]) == ("/tmp\n7\n", 0)
    assert client.numbers == list(range(len(client.numbers)))


async def test_nothing_is_left_of_a_shell_whose_worker_was_killed(
    make_cluster: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    cluster = make_cluster(workers=1)
    client = await connect(cluster.gateways[0])
    await client.initialize("shell")
    acknowledged = await client.act("run", {"command": "sleep 1000 & setsid sleep 1000 & echo started"})
    assert await client.output(acknowledged["id"]) == ("started\n", 0)
    (worker,) = cluster.workers
    below = {pid: start_time(pid) for pid in descendants(worker.pid)}
    assert len(below) >= 4, "a watchdog, a bash and what that started"
    worker.end(signal.SIGKILL)
    wait_until(lambda: not any(at and start_time(pid) == at for pid, at in below.items()), "their end")
    assert list(temporary.iterdir()) == []


async def test_a_killed_gateways_connections_end_and_its_session_is_passivated(
    make_cluster: Make, connect: Connect
) -> None:
    cluster = make_cluster(LEASE_TTL=3, HEARTBEAT=0.5, CLOSE_DELAY=1)
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    cluster.gateways[0].kill()
    wait_until(
        lambda: cluster.gateways[1].state(client.session_id) == "passivated", "passivation", 3 + 2 + 1 + 2
    )
    rows = cluster.gateways[1].query(
        "SELECT end_reason FROM ohsessions_connection WHERE ended_at IS NOT NULL"
    )
    assert rows == [("gateway_lost",)]


@pytest.mark.timeout(240)
async def test_a_session_that_kills_its_workers_fails_and_the_others_go_on(
    make_cluster: Make, connect: Connect
) -> None:
    """The workers are started again each time, as an init system does."""
    cluster = make_cluster(
        LEASE_TTL=3,
        HEARTBEAT=0.5,
        RUNTIMES={
            "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"},
            "deadly": {"BACKEND": "tests.acceptance.runtimes.DeadlyRuntime"},
        },
    )
    others = [await connect(cluster.gateways[index % 2]) for index in range(4)]
    for other in others:
        await other.initialize("echo")
    deadly = await connect(cluster.gateways[0])
    await deadly.initialize("deadly")
    async with asyncio.timeout(200):
        while cluster.state(deadly.session_id) != "failed":
            for worker in cluster.workers:
                if worker.process is not None and worker.process.poll() is not None:
                    await asyncio.to_thread(worker.start)
            await asyncio.sleep(0.05)
    for other in others:
        acknowledged = await other.act("message", {"content": "still here"})
        await other.wait_for(observation="echo", cause=acknowledged["id"])
        assert cluster.state(other.session_id) == "running"


async def test_new_sessions_spread_over_the_workers(make_cluster: Make, connect: Connect) -> None:
    cluster = make_cluster()
    for _ in range(20):
        client = await connect(cluster.gateways[0])
        await client.initialize("echo")
        await client.wait_state("init")
    counts = [
        count for (count,) in cluster.query("SELECT count(*) FROM ohsessions_session GROUP BY worker_id")
    ]
    assert sorted(counts) == [10, 10]


async def test_without_redis_the_site_works_late(
    make_cluster: Make, connect: Connect, redis_server: RedisServer
) -> None:
    redis_server.stop()
    cluster = make_cluster(CLOSE_DELAY=0)
    here, there = await connect(cluster.gateways[0]), await connect(cluster.gateways[1])
    await here.initialize("echo")
    await there.initialize(token=here.token)
    acknowledged = await here.act("message", {"content": "late"})
    for client in (here, there):
        await client.wait_for(observation="echo", cause=acknowledged["id"], limit=8)
    redis_server.start()
    for client in (here, there):
        await asyncio.wait_for(client.act("message", {"content": "x"}), 8)
    await here.close()
    await there.close()
    wait_until(lambda: cluster.state(here.session_id) == "passivated", "passivation")
