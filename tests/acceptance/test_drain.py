"""Stopping in order: what a process held goes on elsewhere, or sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.acceptance.cluster import Cluster
from tests.acceptance.site import Client
from tests.requirements import wait_until

Connect = Callable[..., Awaitable[Client]]
Make = Callable[..., Cluster]


async def test_a_stopped_workers_sessions_go_on_without_an_error_and_it_exits_0(
    make_cluster: Make, connect: Connect
) -> None:
    cluster = make_cluster()
    client = await connect(cluster.gateways[0])
    await client.initialize("shell")
    first = await client.act("run", {"command": "cd /tmp; export A=7; sleep 1; echo first"})
    second = await client.act("run", {"command": "pwd; echo $A"})
    await client.wait_state("running")
    owner = cluster.worker_of(client.session_id)
    assert await asyncio.to_thread(owner.end) == 0
    # The action under way came to its end, the one that waited is handled by the next owner.
    assert await client.output(first["id"]) == ("first\n", 0)
    assert await client.output(second["id"]) == ("/tmp\n7\n", 0)
    assert client.others == []
    assert client.numbers == list(range(len(client.numbers)))


async def test_an_operator_drains_a_worker_by_command(make_cluster: Make, connect: Connect) -> None:
    cluster = make_cluster()
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    owner = cluster.worker_of(client.session_id)
    said = await asyncio.to_thread(cluster.gateways[0].manage, "ohsessions", "drain", str(owner.pid))
    assert said.endswith("Done\n")
    assert owner.process is not None
    wait_until(lambda: owner.process.poll() == 0, "the worker's end")
    owner.process = None
    acknowledged = await client.act("message", {"content": "still here"})
    await client.wait_for(observation="echo", cause=acknowledged["id"])
    assert client.others == []


async def test_a_stopped_gateway_writes_its_connections_off_and_sends_its_clients_away(
    make_cluster: Make, connect: Connect
) -> None:
    cluster = make_cluster(CLOSE_DELAY=0)
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    assert await asyncio.to_thread(cluster.gateways[0].stop) == 0
    assert {"notice": "draining", "reconnect_in": 0.0} in client.notices
    assert {notice.get("reason") for notice in client.notices if notice["notice"] == "disconnecting"} == {
        "draining"
    }
    wait_until(lambda: cluster.gateways[1].state(client.session_id) == "passivated", "passivation")
    rows = cluster.gateways[1].query("SELECT count(*) FROM ohsessions_connection WHERE ended_at IS NULL")
    assert rows == [(0,)]
