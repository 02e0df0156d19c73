"""The death of a worker with very many sessions: the time until all run elsewhere, and delays for others."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.acceptance.cluster import Cluster
from tests.benchmarks.test_bench_scale import open_session
from tests.no_limits import NO_LIMITS

ORPHANS = int(os.environ.get("OHSESSIONS_BENCH_ORPHANS", "1000"))
PAUSE = 0.25
LIMIT = 900.0

DEAD = """
INSERT INTO ohsessions_process
    (id, kind, state, host, pid, birth, version, heartbeat, load, started_at, seen_at)
    VALUES (%s, 'worker', 'active', 'elsewhere', 1, '', '', 1, 0, now(), now())
"""
ORPHANED = """
WITH made AS (
    INSERT INTO ohsessions_session
        (id, runtime, title, state, reason, settings, secrets, next_number, first_number,
         last_action_number, last_user_number, started_number, handled_number, interrupted_number, attempts,
         started_epoch, epoch, worker_id, passivate_at, forced_by, crashes, snapshot_file, token_version,
         created_at, state_at, active_at)
    SELECT gen_random_uuid(), %(runtime)s, 'orphan', 'running', 'a benchmark', '{}', '', 1, 0,
           0, 0, -1, -1, -1, 0,
           0, 2, %(worker)s, now(), '', 0, '', 1,
           now(), now(), now()
    FROM generate_series(1, %(count)s) RETURNING id)
INSERT INTO ohsessions_event (session_id, number, source, kind, data, write_key, created_at)
    SELECT id, 0, 'user', 'message', %(action)s, 'c:1', now() FROM made
"""
ACTION = '{"id":0,"action":"message","args":{"content":"hello"}}'
COUNTS = """
SELECT count(*) FILTER (WHERE state = 'passivated' AND handled_number >= 0),
       count(*) FILTER (WHERE state = 'failed')
    FROM ohsessions_session WHERE title = 'orphan'
"""


@pytest.fixture
def cluster(tmp_path: Path, postgres_database: str, redis_url: str) -> Iterator[Cluster]:
    settings = NO_LIMITS | {"CLOSE_DELAY": 0, "LEASE_TTL": 3, "HEARTBEAT": 0.5}
    cluster = Cluster(tmp_path, postgres_database, redis_url, 1, 2, **settings)
    yield cluster
    cluster.stop()


async def test_takeover_of_a_worker_with_many_sessions(cluster: Cluster) -> None:
    cluster.start()
    values = {"worker": uuid4(), "count": ORPHANS, "runtime": "echo", "action": ACTION}
    with psycopg.connect(cluster.gateways[0].environment["DATABASE_URL"]) as connection:
        connection.execute(DEAD, [values["worker"]])
        connection.execute(ORPHANED, values)
    start = time.monotonic()
    waits: list[float] = []
    done = failed = 0
    first = 0.0
    while done + failed < ORPHANS and time.monotonic() - start < LIMIT:
        asked = time.monotonic()
        client = await open_session(cluster)
        waits.append((time.monotonic() - asked) * 1000)
        await client.close()
        ((done, failed),) = await asyncio.to_thread(cluster.query, COUNTS)
        first = first or (time.monotonic() - start if done else 0.0)
        await asyncio.sleep(PAUSE)
    end = time.monotonic() - start
    waits.sort()
    print(
        f"\n{ORPHANS} sessions of a dead worker: the first went on after {first:.1f} s,"
        f" all after {end:.1f} s ({failed} failed); another one's INIT until ready:"
        f" median {waits[len(waits) // 2]:.0f} ms, worst {waits[-1]:.0f} ms of {len(waits)}"
    )
    assert done == ORPHANS
