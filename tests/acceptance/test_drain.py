"""Orderly stops: the sessions of a process continue elsewhere, or sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from tests.acceptance.cluster import Cluster
from tests.acceptance.operators import Operator
from tests.acceptance.site import Client, Site
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
    # The action under way ended normally. The waiting one is handled by the next owner.
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


async def test_an_operator_drains_a_worker_in_the_admin_and_its_clients_stay_connected(
    make_cluster: Make, connect: Connect
) -> None:
    cluster = make_cluster()
    operator = await asyncio.to_thread(Operator, cluster.gateways[1])
    client = await connect(cluster.gateways[0])
    await client.initialize("shell")
    command = await client.act("run", {"command": "cd /tmp; sleep 1; echo ready"})
    await client.wait_state("running")
    before = cluster.worker_of(client.session_id)
    ((key,),) = cluster.query("SELECT id FROM ohsessions_process WHERE pid = %s", before.pid)
    page = await asyncio.to_thread(operator.select, "process", "drain_now", str(key))
    assert "The process drains" in page
    assert before.process is not None
    assert await asyncio.to_thread(before.process.wait, 60) == 0
    before.process = None
    assert await client.output(command["id"]) == ("ready\n", 0)
    command = await client.act("run", {"command": "pwd"})
    assert await client.output(command["id"]) == ("/tmp\n", 0)
    assert cluster.worker_of(client.session_id) is not before
    assert client.socket.connected
    assert [notice for notice in client.notices if notice["notice"] == "disconnecting"] == []
    assert client.others == []
    assert client.numbers == list(range(len(client.numbers)))


async def test_an_embedded_site_that_an_operator_drains_ends_in_order(
    make_site: Callable[..., Site], connect: Connect
) -> None:
    site = make_site()
    operator = await asyncio.to_thread(Operator, site)
    client = await connect(site)
    await client.initialize("echo")
    await client.wait_state("init")
    ((key,),) = site.query("SELECT id FROM ohsessions_process WHERE kind = 'worker'")
    page = await asyncio.to_thread(operator.select, "process", "drain_now", str(UUID(key)))
    assert "The process drains" in page
    assert site.process is not None
    assert await asyncio.to_thread(site.process.wait, 60) == 0
    site.process = None
    assert site.state(client.session_id) == "passivated"
    assert set(site.query("SELECT state FROM ohsessions_process")) == {("gone",)}


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
