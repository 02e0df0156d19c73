"""The checks behind /readyz: can this process serve? The view decides what HTTP answers.

The detail of a check is public: it has counts and times. Hosts, names and the texts of errors are only in
the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from ohsessions.concurrency.outages import Outage
from ohsessions.concurrency.shared import Shared
from ohsessions.concurrency.threads import Threads
from ohsessions.database import NO_ROOM, database_now, describe, storage
from ohsessions.models import Process
from ohsessions.processes.company import company
from ohsessions.wakeups import PROBE_GROUP

logger = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""Seconds that the database, and after it the channel layer, may take."""
TRIED_ROWS = 40
"""Rows of about 500 bytes that are stored to test whether the disk has room."""
MOST_WAITERS = 4
"""Threads that may wait for the database at a time. If it is dead, all of them hang."""
KEPT = 1.0
"""Seconds that an answer is kept. Anybody may ask. So frequent requests cost nothing, and take no thread from
the load balancer's probes."""


class Status(StrEnum):
    READY = "ready"
    DEGRADED = "degraded"
    """The process serves, but late or only in part: clients wait for the missing part."""
    UNREADY = "unready"
    """The process cannot serve: send clients to another one."""


@dataclass(frozen=True, slots=True)
class Check:
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    status: Status
    checks: dict[str, Check]


NEEDED = frozenset({"database", "migrations", "storage"})
"""Checks without which nothing works. Without a channel layer wake-ups are late; without a worker sessions
wait."""

SKIPPED = Check(False, "Not checked: the database does not answer.")

_outages = {
    name: Outage(logger, f"Readiness check {name}", "check")
    for name in ("database", "migrations", "workers", "channel_layer")
}
"""These log the start and the end of a failure only: probes come each second."""
_asking = Threads("ohsessions-readyz", MOST_WAITERS)


def readiness() -> Readiness:
    """Run all checks and return their results. Takes about 2 × CHECK_SECONDS at most, even if a check hangs.

    Raises nothing.
    """
    checks = check_database() | {
        "channel_layer": _try("channel_layer", async_to_sync(_send)),
        # What this process found last of others where only one may run.
        "processes": Check(not company.problem, company.problem or "As many as there may be."),
    }
    for name, outage in _outages.items():
        if checks[name].ok:
            outage.worked()
        elif checks[name] is not SKIPPED:
            outage.failed(checks[name].detail)
    failed = {name for name, check in checks.items() if not check.ok}
    if failed & NEEDED:
        return Readiness(Status.UNREADY, checks)
    return Readiness(Status.DEGRADED if failed else Status.READY, checks)


shared_readiness = Shared(lambda: readiness(), KEPT)
"""The result that HTTP answers: at most KEPT seconds old, and computed once for all concurrent requests."""


def check_database() -> dict[str, Check]:
    """Run the checks that ask the database, in a thread of their own.

    A driver has no timeout that covers a host that drops packets, so the wait for the thread is limited.
    """
    if _asking.waiting:
        return _unanswered("Earlier checks still wait for the database.")
    answer = _asking.put(_ask_database)
    try:
        return answer.result(CHECK_SECONDS)
    except TimeoutError:
        answer.cancel()
        return _unanswered(f"No answer within {CHECK_SECONDS:g} s.")


def _unanswered(detail: str) -> dict[str, Check]:
    skipped = dict.fromkeys(("migrations", "workers", "storage"), SKIPPED)
    return {"database": Check(False, detail)} | skipped


def _ask_database() -> dict[str, Check]:
    try:
        database = _try("database", _select)
        if not database.ok:
            return _unanswered(database.detail)
        return {
            "database": database,
            "migrations": _try("migrations", _compare_migrations),
            "workers": _try("workers", _count_workers),
            "storage": _check_storage(),
        }
    finally:
        connection.close()


def _try(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # drivers and layers have no common base, and a probe must be answered
        _outages[name].failed(f"{type(error).__name__}: {error}")
        return Check(False, "Failed; the reason is in the log.")


def _select() -> Check:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return Check(True, "Answers.")


def _compare_migrations() -> Check:
    executor = MigrationExecutor(connection)
    missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if missing:
        return Check(False, f"{missing} not applied: run `manage.py migrate`.")
    return Check(True, "All are applied.")


def _count_workers() -> Check:
    active = Process.objects.filter(kind=Process.Kind.WORKER, state=Process.State.ACTIVE).count()
    if not active:
        return Check(False, "None is active: sessions wait. Start `manage.py ohsessions worker`.")
    return Check(True, f"{active} active.")


def _check_storage() -> Check:
    """Check whether the disk has room. Writes only if this process found the disk full the last time."""
    if storage.lasts:
        try:
            _store()
        except DatabaseError as error:
            storage.failed(describe(error))
        storage.worked()
    if storage.lasts:
        return Check(False, NO_ROOM)
    return Check(True, "Nothing was refused for want of room.")


def _store() -> None:
    """Store more rows than fit into one page of the database, and delete them in the same transaction."""
    now = database_now()
    text = "x" * 200
    row = {"kind": Process.Kind.GATEWAY, "state": Process.State.GONE, "host": text, "birth": text, "pid": 0}
    with transaction.atomic():
        rows = Process.objects.bulk_create(
            Process(version="", started_at=now, seen_at=now, **row) for _ in range(TRIED_ROWS)
        )
        # Not delete(): it would query the tables that refer to these rows.
        Process.objects.filter(pk__in=[row.pk for row in rows])._raw_delete("default")


async def _send() -> Check:
    """Send to a group without members: this uses the whole layer and leaves nothing behind."""
    layer = get_channel_layer()
    if layer is None:
        return Check(False, "None is configured: set CHANNEL_LAYERS.")
    try:
        await asyncio.wait_for(layer.group_send(PROBE_GROUP, {"type": "probe"}), CHECK_SECONDS)
    except TimeoutError:
        return Check(
            False, f"No answer within {CHECK_SECONDS:g} s: clients are late by a reconcile interval."
        )
    return Check(True, "Answers.")
