"""Read the log: pages for clients, actions for runtimes, heads for gateways that may have missed events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models.functions import Substr

from ohsessions import access
from ohsessions.core import wire
from ohsessions.core.faults import public_reason
from ohsessions.core.runtime import Action
from ohsessions.models import Event, Session

PAGE_EVENTS = 300
PAGE_CHARACTERS = 256 * 1024
MAX_TIMESTAMP = 64
"""Characters of a client's timestamp that are compared; ours have 32."""


def read_page(session_id: UUID, after: int) -> list[tuple[int, str]]:
    """Return the next page of events after a number, oldest first, as (number, data); empty at the head.

    A page ends after PAGE_EVENTS events, or with the event that exceeds PAGE_CHARACTERS.
    """
    page: list[tuple[int, str]] = []
    size = 0
    for number, data in _next_rows(session_id, after):
        page.append((number, data))
        size += len(data)
        if size >= PAGE_CHARACTERS:
            break
    return page


def _next_rows(session_id: UUID, after: int) -> Iterator[tuple[int, str]]:
    """Yield the next events after a number. Read few beyond a page, since each may have megabytes."""
    if connection.vendor != "postgresql":
        # SQLite reads a row only when it is fetched.
        rows = Event.objects.filter(session_id=session_id, number__gt=after).order_by("number")
        yield from rows.values_list("number", "data")[:PAGE_EVENTS].iterator(chunk_size=1)
        return
    # No iterator() here: it declares a cursor that outlives its transaction. PgBouncer in transaction mode
    # sends the next statement to another server. PostgreSQL knows the size in bytes without reading the text.
    table = connection.ops.quote_name(Event._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH next AS (SELECT number, data FROM {table} WHERE session_id = %s AND number > %s"
            " ORDER BY number LIMIT %s), sized AS (SELECT number, data, octet_length(data) AS size,"
            " sum(octet_length(data)) OVER (ORDER BY number ROWS UNBOUNDED PRECEDING) AS upto FROM next)"
            " SELECT number, data FROM sized WHERE upto - size < %s ORDER BY number",
            [session_id, after, PAGE_EVENTS, PAGE_CHARACTERS],
        )
        yield from cursor.fetchall()


def has_event(session_id: UUID, number: int, timestamp: str) -> bool:
    """Return whether the event with this number has this timestamp, in the format of the wire."""
    prefix = wire.stamp_prefix(number, timestamp[:MAX_TIMESTAMP])
    found = Event.objects.filter(session_id=session_id, number=number)
    # Read only the part that is compared: an event may be large.
    return prefix in found.values_list(Substr("data", 1, len(prefix)), flat=True)


def new_actions(session_id: UUID, after: int) -> list[tuple[int, str]]:
    """Return the actions of clients after a number, oldest first, as (number, type)."""
    rows = Event.objects.filter(session_id=session_id, number__gt=after, source="user").order_by("number")
    return list(rows.values_list("number", "kind"))


def read_action(session_id: UUID, number: int) -> tuple[Action, int]:
    """Return one action of a client, with its real arguments, and the version of its session's secrets."""
    fields = ("kind", "data", "hidden_text", "session__secrets_version")
    rows = Event.objects.filter(session_id=session_id, number=number).values_list(*fields)
    kind, data, hidden_text, secrets_version = rows.get()
    args = json.loads(data)["args"]
    hidden = args.get("hidden") is True
    if hidden_text is not None:
        args = json.loads(access.decrypt(hidden_text))
    return Action(number, kind, args, hidden), secrets_version


@dataclass(frozen=True, slots=True)
class Head:
    """The fields of a session by which a gateway notices that it missed something."""

    number: int
    state: str
    reason: str
    """The part of the reason that users may read."""
    title: str
    worker: UUID | None
    state_at: datetime
    retry_at: datetime | None


def heads(session_ids: Iterable[UUID]) -> dict[UUID, Head]:
    """Return the heads of many sessions, by id, in one query. Deleted sessions are left out."""
    rows = Session.objects.filter(pk__in=list(session_ids))
    fields = ("pk", "next_number", "state", "reason", "title", "worker", "state_at", "retry_at")
    found = rows.values_list(*fields)
    return {row[0]: Head(row[1] - 1, row[2], public_reason(row[3]), *row[4:]) for row in found}
