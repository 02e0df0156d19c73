"""The cost of many sessions.

Measured are: the drain of a worker that owns 1,000; memory after 10,000 came and went; and 1,000 sessions
whose last two connections end at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.raw import RawClient
from tests.acceptance.test_backpressure import resident_megabytes
from tests.no_limits import NO_LIMITS
from tests.requirements import wait_until

DRAINED = int(os.environ.get("OHSESSIONS_BENCH_DRAINED", "1000"))
PASSING = int(os.environ.get("OHSESSIONS_BENCH_PASSING", "10000"))
PAIRS = int(os.environ.get("OHSESSIONS_BENCH_PAIRS", "1000"))
AT_ONCE = 25
LIMIT = 120.0


@pytest.fixture
def cluster(tmp_path: Path, postgres_database: str, redis_url: str) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgres_database, redis_url, 1, 2, **NO_LIMITS, CLOSE_DELAY=0)
    yield cluster
    cluster.stop()


async def send(client: RawClient, action: str, **payload: Any) -> None:
    await client.send("2" + json.dumps(["oh_action", {"action": action, **payload}]))


async def open_session(cluster: Cluster) -> RawClient:
    client = await RawClient(cluster.gateways[0].url).connect()
    await send(client, "initialize", args={"runtime": "echo"})
    await client.wait(lambda: any('"init"' in packet for packet in client.packets), "init", LIMIT)
    return client


async def join(cluster: Cluster, first: RawClient) -> RawClient:
    """Attach to the session that `first` made, through another gateway."""
    answer = next(packet for packet in first.packets if '"token"' in packet)
    token = json.loads(answer[answer.index("[") :])[1]["token"]
    client = await RawClient(cluster.gateways[1].url).connect()
    await send(client, "initialize", token=token)
    await client.wait(lambda: any('"token"' in packet for packet in client.packets), "the answer", LIMIT)
    return client


async def echo(client: RawClient, text: str) -> None:
    await send(client, "message", args={"content": text})
    words = f'"content":"{text}","extras"'
    await client.wait(lambda: any(words in packet for packet in client.packets), f"the echo of {text}", LIMIT)


async def in_batches(count: int, job: Any) -> list[Any]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> Any:
        async with gate:
            return await job(index)

    return await asyncio.gather(*(one(index) for index in range(count)))


async def test_drain_of_a_worker_with_many_attached_sessions(cluster: Cluster) -> None:
    first, second = cluster.workers
    cluster.workers = [first]
    cluster.start()
    clients = await in_batches(DRAINED, lambda _: open_session(cluster))
    cluster.workers = [first, second]
    second.start()
    start = time.monotonic()
    code = await asyncio.to_thread(first.end, signal.SIGTERM)
    drained = time.monotonic() - start
    await in_batches(DRAINED, lambda index: echo(clients[index], f"after {index}"))
    everything = time.monotonic() - start
    print(
        f"\n{DRAINED} sessions: drained in {drained:.1f} s (exit {code}), all answer after {everything:.1f} s"
    )
    for client in clients:
        assert not any('"error":' in packet for packet in client.packets)
        await client.close()


async def test_memory_after_many_sessions_came_and_went(cluster: Cluster) -> None:
    cluster.workers = cluster.workers[:1]
    cluster.start()
    gateway, worker = cluster.gateways[0].process, cluster.workers[0].process
    assert gateway is not None
    assert worker is not None

    async def come_and_go(index: int) -> None:
        client = await open_session(cluster)
        await echo(client, f"hello {index}")
        await client.close()

    def sizes() -> str:
        of_gateway, of_worker = (resident_megabytes(process.pid) for process in (gateway, worker))
        return f"gateway {of_gateway:.1f} MB, worker {of_worker:.1f} MB"

    print(f"\nbefore the first session: {sizes()}")
    for count in [PASSING // 10] * 10:
        start = time.monotonic()
        await in_batches(count, come_and_go)
        wait_until(
            lambda: (
                cluster.query("SELECT count(*) FROM ohsessions_session WHERE state <> 'passivated'") == [(0,)]
            ),
            "passivation",
        )
        speed = count / (time.monotonic() - start)
        print(f"{count} more sessions, {speed:.0f} a second: {sizes()}")


LATENESS = """
SELECT coalesce(extract(epoch FROM t.at - (
           SELECT max(c.ended_at) FROM ohsessions_connection c WHERE c.session_id = s.id)), -1)
    FROM ohsessions_session s
    LEFT JOIN ohsessions_transition t ON t.session_id = s.id AND t."to" = 'passivating' ORDER BY 1
"""


async def test_two_last_disconnects_at_once(tmp_path: Path, postgres_database: str, redis_url: str) -> None:
    cluster = Cluster(tmp_path, postgres_database, redis_url, 2, 2, **NO_LIMITS, CLOSE_DELAY=0)
    cluster.start()

    async def pass_by(_: int) -> None:
        first = await open_session(cluster)
        pair = first, await join(cluster, first)
        await asyncio.gather(*(client.close() for client in pair))

    try:
        await in_batches(PAIRS, pass_by)
        asleep = "SELECT count(*) FROM ohsessions_session WHERE state = 'passivated'"
        wait_until(lambda: cluster.query(asleep) == [(PAIRS,)], "passivation")
        lateness = [float(row[0]) for row in cluster.query(LATENESS)]
    finally:
        cluster.stop()
    shown = [f"{lateness[(PAIRS - 1) * part // 100]:.2f} s" for part in (50, 99, 100)]
    print(
        f"\n{PAIRS} times two last disconnects at once: all passivated; begun after p50, p99, most:", *shown
    )
    assert lateness[0] >= 0
