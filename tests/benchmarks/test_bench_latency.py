"""Waiting times of people, in milliseconds: median and worst of 50, over sockets to real processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.site import Client, Site
from tests.no_limits import NO_LIMITS
from tests.requirements import wait_until

ROUNDS = 50
SETTINGS: dict[str, Any] = NO_LIMITS | {"CLOSE_DELAY": 0}


class Times(dict[str, list[float]]):
    """Milliseconds, by the name of the operation."""

    async def take(self, name: str, awaitable: Awaitable[object], since: float | None = None) -> None:
        start = time.perf_counter() if since is None else since
        await awaitable
        self.setdefault(name, []).append((time.perf_counter() - start) * 1000)

    def report(self, title: str) -> None:
        print(f"\n{title}")
        for name, times in self.items():
            print(f"  {name:35} median {statistics.median(times):7.1f} ms   worst {max(times):7.1f} ms")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, **SETTINGS)
    site.start()
    yield site
    site.stop()


@pytest.fixture
def cluster(tmp_path: Path, postgres_database: str, redis_url: str) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, postgres_database, redis_url, 2, 2, **SETTINGS)
    cluster.start()
    yield cluster
    cluster.stop()


async def test_latency_on_one_machine(site: Site) -> None:
    times = Times()
    for _ in range(ROUNDS):
        await one_session(times, site, site)
    times.report("One process, SQLite:")


async def test_latency_across_two_gateways(cluster: Cluster) -> None:
    times = Times()
    for _ in range(ROUNDS):
        await one_session(times, *cluster.gateways)
    times.report("Two gateways, two workers, PostgreSQL and Redis:")


async def one_session(times: Times, here: Site, there: Site) -> None:
    """Make a session on one gateway, join it on another, passivate it, and wake it there."""
    first = await Client(here.url).connect()
    start = time.perf_counter()
    await times.take("INIT, new: its answer", first.initialize("echo"))
    await times.take("INIT, new: its runtime is ready", first.wait_state("init"), start)
    await times.take("echo: its acknowledgement", first.act("message", {"content": "x"}))
    await times.take("echo: its event", echo(first))
    second = await Client(there.url).connect()
    await times.take("join: its answer", second.initialize(token=first.token))
    await times.take("echo: its event at the other one", echo(first, second))
    await second.close()
    await first.close()
    wait_until(lambda: here.state(first.session_id) == "passivated", "passivation")
    third = await Client(there.url).connect()
    cursor = {"token": first.token, "latest_event_id": first.numbers[-1]}
    start = time.perf_counter()
    await times.take("rehydration: its answer", third.initialize(**cursor))
    await times.take("rehydration: its runtime is ready", third.wait_state("init"), start)
    await third.close()


async def echo(client: Client, witness: Client | None = None) -> None:
    acknowledged = await client.act("message", {"content": "y"})
    await (witness or client).wait_for(observation="echo", cause=acknowledged["id"])
