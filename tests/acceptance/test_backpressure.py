"""A slow or dead client costs a bounded amount of memory, and harms no other client."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Client
from tests.requirements import wait_until

MEGABYTES = int(os.environ.get("OHSESSIONS_TEST_FLOOD_MB", "30"))
RUNTIMES = {"flood": {"BACKEND": "tests.acceptance.flood.FloodRuntime"}}
LIMIT = 120.0
Connect = Callable[..., Awaitable[Client]]
ConnectRaw = Callable[..., Awaitable[RawClient]]
Make = Callable[..., Cluster]


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def numbers(client: RawClient) -> list[int]:
    events = (json.loads(packet[1:])[1] for packet in client.packets if packet.startswith('2["oh_event"'))
    return [event["id"] for event in events if isinstance(event.get("id"), int)]


async def initialize(client: RawClient, **payload: Any) -> None:
    await client.send("2" + json.dumps(["oh_action", {"action": "initialize", "args": {}, **payload}]))
    await client.wait(lambda: client.packets, "the first answer")


async def have_flooded(client: Client, megabytes: int) -> None:
    """Ask for a flood, and wait for its end."""
    acknowledged = await client.act("flood", {"megabytes": megabytes})

    def ended() -> bool:
        return any(
            event.get("observation") == "end" and event["cause"] == acknowledged["id"]
            for event in client.events[-3:]
        )

    await client.wait(ended, "the end of the flood", LIMIT)


async def flood(cluster: Cluster, connect: Connect, connect_raw: ConnectRaw) -> tuple[Client, RawClient]:
    """Return a client that reads and one that does not, in one session. The first has asked for a flood."""
    reader = await connect(cluster.gateways[0])
    await reader.initialize("flood")
    await have_flooded(reader, 2)  # the memory that any flood costs is in use before
    reader.events.clear()
    sleeper = await connect_raw(cluster.gateways[0])
    await initialize(sleeper, token=reader.token, latest_event_id=10**9)
    await sleeper.wait(lambda: len(numbers(sleeper)) > 200, "the first events")
    sleeper.reads.clear()
    return reader, sleeper


async def test_a_client_that_reads_nothing_costs_little_and_gets_everything_when_it_reads_again(
    make_cluster: Make, connect: Connect, connect_raw: ConnectRaw
) -> None:
    cluster = make_cluster(1, 1, RUNTIMES=RUNTIMES, SLOW_TIMEOUT=600)
    reader, sleeper = await flood(cluster, connect, connect_raw)
    gateway = cluster.gateways[0].process
    assert gateway is not None
    alone = resident_megabytes(gateway.pid)
    await have_flooded(reader, MEGABYTES)
    grown = resident_megabytes(gateway.pid) - alone
    print(f"{MEGABYTES} MB emitted, {len(numbers(sleeper))} events read: the gateway grew by {grown:.1f} MB")
    assert grown < 8
    assert reader.numbers == list(range(reader.numbers[0], reader.numbers[-1] + 1))
    sleeper.reads.set()
    last = reader.numbers[-1]
    await sleeper.wait(lambda: f'"id":{last},' in sleeper.packets[-1], "the rest of the flood", LIMIT)
    assert numbers(sleeper) == list(range(last + 1))
    print(f"after it was read: {resident_megabytes(gateway.pid) - alone:.1f} MB")


async def test_a_client_that_goes_on_reading_nothing_is_disconnected_as_slow(
    make_cluster: Make, connect: Connect, connect_raw: ConnectRaw
) -> None:
    cluster = make_cluster(1, 1, RUNTIMES=RUNTIMES, SLOW_TIMEOUT=2)
    reader, _ = await flood(cluster, connect, connect_raw)
    await have_flooded(reader, 5)
    ended = "SELECT end_reason FROM ohsessions_connection WHERE ended_at IS NOT NULL"
    wait_until(lambda: cluster.query(ended) == [("slow",)], "the end of the slow connection")
    await have_flooded(reader, 0)
    assert not reader.others


pytestmark = pytest.mark.timeout(300)
