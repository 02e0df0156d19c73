"""What a person waits for, in milliseconds: median and worst of 50, over a real socket to a real site."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from tests.acceptance.site import Client, Site
from tests.requirements import wait_until

ROUNDS = 50


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path, CLOSE_DELAY=0, RATE_LIMIT=None)
    site.start()
    yield site
    site.stop()


class Times(dict[str, list[float]]):
    """Milliseconds by what was waited for."""

    async def take(self, name: str, awaitable: Awaitable[object]) -> None:
        start = time.perf_counter()
        await awaitable
        self.setdefault(name, []).append((time.perf_counter() - start) * 1000)

    def report(self) -> None:
        print()
        for name, times in self.items():
            print(f"{name:45} median {statistics.median(times):7.1f} ms   worst {max(times):7.1f} ms")


async def test_latency_of_init_join_rehydration_and_echo(site: Site) -> None:
    times = Times()
    for _ in range(ROUNDS):
        first = await Client(site.url).connect()
        start = time.perf_counter()
        await times.take("INIT of a new session, to its answer", first.initialize("echo"))
        await first.wait_state("init")
        times.setdefault("INIT of a new session, to its runtime ready", []).append(
            (time.perf_counter() - start) * 1000
        )
        await times.take("echo action, to its acknowledgement", first.act("message", {"content": "x"}))
        await times.take("echo action, to its event", _echo(first))
        second = await Client(site.url).connect()
        await times.take("join of a running session, to its answer", second.initialize(token=first.token))
        await second.close()
        await first.close()
        wait_until(lambda site=site, first=first: site.state(first.session_id) == "passivated", "passivation")
        third = await Client(site.url).connect()
        start = time.perf_counter()
        head = first.numbers[-1]
        cursor = {"token": first.token, "latest_event_id": head}
        await times.take("rehydration, to its answer", third.initialize(**cursor))
        await third.wait_state("init")
        times.setdefault("rehydration, to its runtime ready", []).append((time.perf_counter() - start) * 1000)
        await third.close()
    times.report()


async def _echo(client: Client) -> None:
    acknowledged = await client.act("message", {"content": "y"})
    await client.wait_for(observation="echo", cause=acknowledged["id"])
