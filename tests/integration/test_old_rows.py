"""Queries that processes repeat read no rows of ended objects, however many there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ohsessions import journal, lifecycle, pruning
from ohsessions.database import database_now
from ohsessions.models import Connection, Process, Session
from ohsessions.processes import health, leases
from tests.integration.world import World, session

MANY = {"sqlite": 2_000, "postgresql": 20_000}
"""Rows of each table. PostgreSQL plans by their number. SQLite does not, as nothing makes it count them."""
pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def running(world: World) -> UUID:
    """Return a session that runs and has a connection, in tables full of ended rows."""
    session_id, _ = world.run("a")
    now, many = database_now(), MANY[connection.vendor]
    Process.objects.bulk_create(
        Process(kind="gateway", state="gone", host="h", pid=1, started_at=now, seen_at=now)
        for _ in range(many)
    )
    times = {"created_at": now, "state_at": now, "active_at": now}
    Session.objects.bulk_create(
        Session(owner=world.user if n % 2 else None, state=state, **times)
        for n in range(many // 2)
        for state in ("closed", "passivated")
    )
    ended = {"session_id": session_id, "gateway_id": world.gateway, "connected_at": now, "ended_at": now}
    Connection.objects.bulk_create(Connection(sid=uuid4().hex, role="owner", **ended) for _ in range(many))
    if connection.vendor == "postgresql":  # PostgreSQL does so by itself; SQLite never does
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    return session_id


def wasted(job: Callable[[], Any]) -> list[str]:
    """Return the needless reads of a job's statements, by the database's own account."""
    with CaptureQueriesContext(connection) as captured:
        job()
    found: list[str] = []
    with connection.cursor() as cursor:
        for query in captured:
            if not query["sql"].startswith("SELECT") or "ohsessions" not in query["sql"]:
                continue
            if connection.vendor == "sqlite":
                cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
                steps = [step for *_, step in cursor.fetchall()]
                found += [s for s in steps if s.startswith("SCAN ohsessions") and "USING" not in s]
            else:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query['sql']}")
                (plans,) = cursor.fetchone()
                plans = json.loads(plans) if isinstance(plans, str) else plans
                found += read_too_much(plans[0]["Plan"])
    return found


def append(session_id: UUID, count: int) -> journal.Append:
    return journal.Append(session_id, [journal.NewEvent("user", "message", "{}") for _ in range(count)])


def read_too_much(plan: dict[str, Any]) -> Iterator[str]:
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    if read > 500 and "Relation Name" in plan:
        yield f"{plan['Relation Name']}: {read:.0f} rows"
    for inner in plan.get("Plans", []):
        yield from read_too_much(inner)


def test_no_look_of_a_process_reads_what_is_over(world: World, running: UUID) -> None:
    looks: dict[str, Callable[[], Any]] = {
        "open_connections": lambda: lifecycle.open_connections(world.gateway),
        "revoked": lambda: lifecycle.revoked(world.gateway),
        "end_reasons": lambda: lifecycle.end_reasons(["a", "b"]),
        "presence": lambda: lifecycle.presence(running),
        "strays": lifecycle.strays,
        "wanted": lambda: lifecycle.wanted(world.worker, 8),
        "due": lambda: lifecycle.due(world.worker),
        "owned_by": lambda: lifecycle.owned_by(world.worker),
        "left_behind": lambda: lifecycle.left_behind(world.worker, 100),
        "living": leases.living,
        "gone_with_leftovers": leases.gone_with_leftovers,
        "heads": lambda: journal.heads([running]),
        "append": lambda: journal.commit_appends([append(running, 3), append(running, 2)]),
        "readyz": health._count_workers,
        "is_first_worker": lambda: pruning.is_first_worker(world.worker),
    }
    assert {name: found for name, look in looks.items() if (found := wasted(look))} == {}


def test_looking_for_what_is_to_be_pruned_reads_nothing_that_is_not(world: World, running: UUID) -> None:
    looks = [rows.order_by("state_at", "pk")[:500] for rows in lifecycle.discardable(database_now())]
    assert [wasted(partial(list, rows)) for rows in looks] == [[], []]
    with CaptureQueriesContext(connection) as captured:
        assert not [done.found for done in pruning.prune() if done.found]
    assert len(captured) < 40
    assert session(running).state == "running"
