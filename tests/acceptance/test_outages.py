"""Redis and the database go away and come back: acknowledged actions stay, and the site recovers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
import requests
import socketio
from redis import asyncio as aioredis

from ohsessions.processes.store import ANSWER_LIMIT
from tests import requirements, weakened
from tests.acceptance.cluster import Cluster
from tests.acceptance.site import Client
from tests.chaos.proxy import Proxy
from tests.chaos.servers import FallingPostgres, FallingRedis
from tests.requirements import require, wait_until

Connect = Callable[..., Awaitable[Client]]
Make = Callable[..., Cluster]
"""A function that starts a cluster of one gateway and one worker, over a Redis or a database of the test."""

LEASE = {"LEASE_TTL": 3, "HEARTBEAT": 0.5}
OUTAGE = 8.0
"""Seconds. Leases of 3 s end within an outage."""
MOST_LINES = 10
"""The most warnings of one process in an outage: the database is away, a lease ended, it is back."""


@pytest.fixture
def redis() -> Iterator[FallingRedis]:
    server = FallingRedis(require(requirements.find_redis_server))
    server.start()
    yield server
    if server.process is not None:
        server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
def make(tmp_path: Path, postgres_database: str, redis: FallingRedis) -> Iterator[Make]:
    """Return a function that starts one gateway and one worker. The gateway is `without` this protection."""
    clusters: list[Cluster] = []

    def make_cluster(without: str = "", **settings: Any) -> Cluster:
        made = Cluster(tmp_path, postgres_database, redis.url, 1, 1, **settings)
        made.gateways[0].environment |= weakened.environment(filter(None, [without]))
        clusters.append(made)
        made.start()
        return made

    yield make_cluster
    for cluster in clusters:
        cluster.stop()


@pytest.fixture
def pair(tmp_path: Path, database: Database, redis: FallingRedis) -> Iterator[Cluster]:
    """Yield one gateway and one worker, which the test starts. Both are stopped after it, however it ends."""
    cluster = Cluster(tmp_path, database.url, redis.url, 1, 1, **LEASE)
    yield cluster
    cluster.kill()


def readyz(cluster: Cluster) -> dict[str, Any]:
    answer: dict[str, Any] = requests.get(f"{cluster.gateways[0].url}/readyz", timeout=20).json()
    return answer


def warnings(log: Path) -> list[str]:
    """Return the lines of a log of level WARNING or above."""
    return [line for line in log.read_text().splitlines() if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]


# Redis


async def lose(redis: FallingRedis, cluster: Cluster, how: str) -> None:
    """Take Redis away and bring it back, in one of several ways."""
    assert redis.process is not None
    if how == "hung":
        redis.process.send_signal(signal.SIGSTOP)
    else:
        redis.stop()
    is_degraded = lambda: readyz(cluster)["status"] == "degraded"  # noqa: E731
    await asyncio.to_thread(wait_until, is_degraded, "/readyz saying that the layer is away")
    if how == "hung":
        redis.process.send_signal(signal.SIGCONT)
    else:
        redis.start()


@pytest.mark.parametrize("how", ["gone at the start", "lost", "hung"])
@pytest.mark.parametrize("layer", ["pubsub", "core"])
async def test_wakeups_are_heard_when_redis_is_back(
    make: Make, connect: Connect, redis: FallingRedis, monkeypatch: pytest.MonkeyPatch, layer: str, how: str
) -> None:
    """Without reconciliation an echo can only come by wake-ups: one to the worker, one to the gateway."""
    monkeypatch.setenv("REDIS_LAYER", layer)
    if how == "gone at the start":
        redis.stop()
    cluster = make(without="reconcile")
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await asyncio.to_thread(
        wait_until, lambda: cluster.state(client.session_id) == "running", "the session running"
    )
    if how == "gone at the start":
        redis.start()
    else:
        await lose(redis, cluster, how)

    async with asyncio.timeout(15):
        while not any(event.get("observation") == "echo" for event in client.events):
            await client.act("message", {"content": "x"})
            with suppress(TimeoutError):  # a wake-up may be lost until both sides are back
                await client.wait_for(0.2, observation="echo")
    assert client.numbers == list(range(len(client.numbers)))


async def test_groups_that_redis_forgot_are_joined_again(
    make: Make, connect: Connect, redis: FallingRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL ends no connection and raises nothing. Only late messages show that it happened."""
    monkeypatch.setenv("REDIS_LAYER", "core")
    cluster = make()
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    group = f"ohsessions:group:ohsessions.session.{client.session_id.replace('-', '')}"
    there = aioredis.from_url(redis.url)
    assert await there.exists(group)
    await redis.flush()
    assert not await there.exists(group)
    late = await client.act("message", {"content": "late"})
    await client.wait_for(observation="echo", cause=late["id"])
    async with asyncio.timeout(15):
        while not await there.exists(group):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.05)
    await there.aclose()


@pytest.mark.parametrize("layer", ["pubsub", "core"])
async def test_without_redis_all_goes_on_late_and_that_is_said_once(
    make: Make, connect: Connect, redis: FallingRedis, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    monkeypatch.setenv("REDIS_LAYER", layer)
    cluster = make()
    client = await connect(cluster.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    redis.stop()
    for _ in range(4):  # each takes about a second
        late = await client.act("message", {"content": "late"})
        await client.wait_for(observation="echo", cause=late["id"], limit=8)
        answers = [await asyncio.to_thread(readyz, cluster) for _ in range(3)]
        assert [answer["status"] for answer in answers] == ["degraded"] * 3
        assert [answer["checks"]["channel_layer"]["ok"] for answer in answers] == [False] * 3
    redis.start()
    logs = [cluster.gateways[0].log, cluster.workers[0].log]
    for log in logs:
        again = "The channel layer works again."
        await asyncio.to_thread(wait_until, lambda log=log, again=again: again in log.read_text(), again)
    # An answer is kept for a second, so the first one may be from before.
    is_ready = lambda: readyz(cluster)["status"] == "ready"  # noqa: E731
    await asyncio.to_thread(wait_until, is_ready, "the gateway being ready")
    said = [[re.sub(r".* WARNING ([\w.]+): .*", r"\1", line) for line in warnings(log)] for log in logs]
    assert [sorted(names) for names in said] == [
        ["ohsessions.processes.health", "ohsessions.wakeups"],
        ["ohsessions.wakeups"],
    ]


# The database


class Database:
    """A PostgreSQL of the test behind a proxy, and the ways in which it goes away."""

    def __init__(self, server: FallingPostgres) -> None:
        self._server = server
        self._proxy = Proxy("database", server.port)

    async def start(self) -> None:
        await self._proxy.start()
        self.url = self._server.url.replace(f":{self._server.port}/", f":{self._proxy.port}/")

    async def stop(self) -> None:
        await self._proxy.stop()

    async def go_away(self, kind: str) -> None:
        if kind == "falls":
            assert self._server.process is not None
            self._server.process.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(self._server.process.wait)
        elif kind == "hangs":
            self._signal(signal.SIGSTOP)
        else:
            self._proxy.freeze()

    async def come_back(self, kind: str) -> None:
        if kind == "falls":
            await self._server.restart(0)
            await self._server.wait_answers()
        elif kind == "hangs":
            self._signal(signal.SIGCONT)
        else:
            self._proxy.cut_all(1.0, Random(0))  # as by a failover: the swallowed data is lost
            self._proxy.thaw()

    def _signal(self, number: int) -> None:
        assert self._server.process is not None
        for pid in descendants(self._server.process.pid):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Return the pids of a process and all its descendants."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    server = FallingPostgres(require(lambda: find_postgres()))
    await asyncio.to_thread(server.start)
    database = Database(server)
    await database.start()
    yield database
    await database.stop()
    await asyncio.to_thread(server.stop)


def find_postgres() -> Path:
    if programs := requirements.find_postgres_programs():
        return programs
    raise requirements.MissingRequirement("No PostgreSQL's programs: apt-get install postgresql.")


class Persistent:
    """A client that comes back with its cursor, and repeats actions without an acknowledgement."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before: list[dict[str, Any]] = []
        self._client: Client | None = None
        self._token: str | None = None
        self._ended = asyncio.Event()
        self.stopping = False
        self.acknowledged: dict[str, int] = {}
        self.waited: list[tuple[str, float]] = []
        """The answers (a status or a reason), each with the seconds that it took."""

    @property
    def events(self) -> list[dict[str, Any]]:
        return self._before + (self._client.events if self._client else [])

    async def run(self) -> None:
        """Send one action after the other."""
        while not self.stopping:
            key = f"action {len(self.acknowledged)}"
            answer = await self._ask("message", {"content": key}, client_id=key)
            if answer["status"] == "ok":
                self.acknowledged[key] = answer["id"]
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _ask(self, action: str, args: dict[str, Any], **payload: Any) -> dict[str, Any]:
        if self._client is None or self._ended.is_set():
            answer = await self._attach()
            if answer["status"] != "ok":
                await asyncio.sleep(0.2)
                return answer
        return await self._call(action, args, **payload)

    async def _attach(self) -> dict[str, Any]:
        if self._client is not None:
            self._before = self.events
            await self._client.close()
        self._ended = asyncio.Event()
        self._client = Client(self._url)
        self._client.socket.on("disconnect", lambda *_: self._ended.set())
        try:
            await self._client.connect()
        except socketio.exceptions.ConnectionError:
            self._ended.set()
            return {"status": "refused"}
        cursor = self._before[-1]["id"] if self._before else -1
        join = {"token": self._token, "latest_event_id": cursor} if self._token else {}
        answer = await self._call("initialize", {"runtime": "echo"}, **join)
        if answer["status"] == "ok":
            self._token = answer["token"]
        else:
            self._ended.set()
        return answer

    async def _call(self, action: str, args: dict[str, Any], **payload: Any) -> dict[str, Any]:
        """Return the acknowledgement, or an answer that the connection ended without one."""
        assert self._client is not None
        asked = monotonic()
        answering = asyncio.create_task(self._client.act(action, args, **payload))
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait([answering, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        answer = {"status": "ended"}
        if answering.done():
            answer = answering.result()
        answering.cancel()
        self.waited.append((answer.get("reason", answer["status"]), monotonic() - asked))
        return answer


@pytest.mark.parametrize("kind", ["falls", "hangs", "swallows"])
async def test_a_database_that_goes_away_loses_nothing_acknowledged_and_all_recover(
    pair: Cluster, database: Database, connect: Connect, kind: str
) -> None:
    await asyncio.to_thread(pair.start)
    try:
        await check_outage(pair, database, connect, kind)
    finally:
        await asyncio.to_thread(pair.stop)


def runs(argument: str) -> bool:
    """Return whether a program of this host has this argument. It may run in a sandbox."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            if argument.encode() in file.read_bytes().split(b"\0"):
                return True
    return False


async def check_outage(cluster: Cluster, database: Database, connect: Connect, kind: str) -> None:
    (gateway,), (_worker,) = cluster.gateways, cluster.workers
    shell = await connect(gateway)
    await shell.initialize("shell")
    # This argument identifies the program, since a sandbox has pids of its own.
    seconds = f"1000.{Random().randrange(10**9):09}"
    started = await shell.act("run", {"command": f"sleep {seconds} & echo begun"})
    assert await shell.output(started["id"]) == ("begun\n", 0)
    assert runs(seconds)
    client = Persistent(gateway.url)
    acting = asyncio.create_task(client.run())
    try:
        await outlast(cluster, database, connect, kind, seconds, client)
        client.stopping = True
        await acting
        await check_all_is_there(cluster, client, shell)
    finally:
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)


async def outlast(
    cluster: Cluster, database: Database, connect: Connect, kind: str, seconds: str, client: Persistent
) -> None:
    """Have the database go away and come back while a client acts and a shell sleeps."""
    gateway = cluster.gateways[0]
    await asyncio.to_thread(wait_until, lambda: len(client.acknowledged) > 3, "actions acknowledged")
    await database.go_away(kind)
    away = monotonic()
    # From LEASE_TTL on another worker could own the session, if the database were not away for it as well.
    await asyncio.to_thread(wait_until, lambda: not runs(seconds), "the end of the shell", 3.0)
    late = await connect(gateway)
    assert (await late.act("initialize", {"runtime": "echo"}))["reason"] == "unavailable"
    before = len(client.acknowledged)
    await asyncio.sleep(max(0.0, OUTAGE - (monotonic() - away)))
    assert len(client.acknowledged) == before
    await database.come_back(kind)
    await asyncio.to_thread(wait_until, lambda: len(client.acknowledged) > before + 3, "actions acknowledged")


async def check_all_is_there(cluster: Cluster, client: Persistent, shell: Client) -> None:
    """Check that all acknowledged actions are stored and handled once, and that the shell continues."""
    (gateway,), (worker,) = cluster.gateways, cluster.workers

    def echoed() -> bool:
        causes = {event["cause"] for event in client.events if event.get("observation") == "echo"}
        return causes >= set(client.acknowledged.values())

    await asyncio.to_thread(wait_until, echoed, "all that was acknowledged being handled")
    await client.close()
    stored = [(e["args"]["content"], e["id"]) for e in client.events if e.get("action") == "message"]
    assert dict(stored) == client.acknowledged
    assert len(stored) == len(client.acknowledged), "an action that was repeated is stored once"
    assert [event["id"] for event in client.events] == list(range(len(client.events)))
    # During the outage each action was answered, and in time.
    assert {word for word, _ in client.waited} <= {"ok", "unavailable"}
    assert max(seconds for _, seconds in client.waited) < ANSWER_LIMIT + 3
    started = await shell.act("run", {"command": "echo again"})
    assert await shell.output(started["id"]) == ("again\n", 0), "its connection was kept"
    assert shell.numbers == list(range(len(shell.numbers)))
    assert [
        gateway.process.poll() if gateway.process else 0,
        worker.process.poll() if worker.process else 0,
    ] == [
        None,
        None,
    ]
    for log in (gateway.log, worker.log):
        assert len(warnings(log)) < MOST_LINES, "a flood:\n" + "\n".join(warnings(log))


async def test_processes_end_in_order_while_the_database_hangs(
    pair: Cluster, database: Database, connect: Connect
) -> None:
    await asyncio.to_thread(pair.start)
    client = await connect(pair.gateways[0])
    await client.initialize("echo")
    await client.wait_state("init")
    await database.go_away("swallows")
    ends = [asyncio.to_thread(pair.gateways[0].stop), asyncio.to_thread(pair.workers[0].end)]
    assert await asyncio.gather(*ends) == [0, 0]


async def test_processes_that_start_while_the_database_is_away_wait_for_it(
    pair: Cluster, database: Database, connect: Connect
) -> None:
    (gateway,), (worker,) = pair.gateways, pair.workers
    await asyncio.to_thread(gateway.manage, "migrate", "--verbosity", "0")
    await database.go_away("falls")
    starts = asyncio.gather(*(asyncio.to_thread(process.start) for process in (gateway, worker)))
    try:
        for log in (gateway.log, worker.log):
            waits = lambda log=log: log.exists() and "waits for it" in log.read_text()  # noqa: E731
            await asyncio.to_thread(wait_until, waits, "the process saying that it waits")
        await database.come_back("falls")
    finally:
        await starts
    client = await connect(gateway)
    assert (await client.initialize("echo"))["status"] == "ok"
    await client.wait_state("init")


async def test_processes_that_wait_for_their_first_database_end_when_they_are_told_to(
    pair: Cluster, database: Database
) -> None:
    (gateway,), (worker,) = pair.gateways, pair.workers
    await asyncio.to_thread(gateway.manage, "migrate", "--verbosity", "0")
    await database.go_away("falls")
    starting = (asyncio.to_thread(process.start) for process in (gateway, worker))
    starts = asyncio.gather(*starting, return_exceptions=True)
    serves = lambda: gateway.log.exists() and "Serving on" in gateway.log.read_text()  # noqa: E731
    waits = lambda: worker.log.exists() and "waits for it" in worker.log.read_text()  # noqa: E731
    try:
        await asyncio.to_thread(wait_until, serves, "the gateway listening")
        await asyncio.to_thread(wait_until, waits, "the worker saying that it waits")
        processes = [process.process for process in (gateway, worker) if process.process is not None]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [await asyncio.to_thread(process.wait, 20) for process in processes]
    finally:
        await starts
    # A process that has not installed its signal handlers yet ends as any program does.
    assert set(codes) <= {0, -signal.SIGTERM}
