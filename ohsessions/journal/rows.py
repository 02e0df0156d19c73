"""Rows of events: made with a session's next number, and found by their write keys."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from ohsessions import access
from ohsessions.core import wire
from ohsessions.core.errors import WireError
from ohsessions.journal.appends import NewEvent
from ohsessions.models import Event, Session

WriteKey = tuple[UUID, str]
"""The identity of an event: its session and its write key in that session."""

MARKS = (
    "next_number",
    "last_action_number",
    "last_user_number",
    "started_number",
    "started_epoch",
    "attempts",
    "handled_number",
    "interrupted_number",
    "log_bytes",
)
"""The integer fields of a session that an append changes. `active_at` changes too."""


def new_row(session: Session, event: NewEvent, now: datetime) -> Event:
    """Return an unsaved row with the session's next number; update the marks. The session must be locked."""
    number = session.next_number
    session.next_number += 1
    session.active_at = now
    if event.source == "user":
        session.last_user_number = number
    if event.waits:
        session.last_action_number = number
    data = wire.stamp(event.body, number, now)
    session.log_bytes += len(data) if data.isascii() else len(data.encode(errors="surrogatepass"))
    return Event(
        session_id=session.pk,
        number=number,
        source=event.source,
        kind=event.kind[:64],
        data=data,
        write_key=event.write_key,
        hidden_text=None if event.hidden is None else access.encrypt(event.hidden),
        created_at=now,
    )


def find_rows(keys: Collection[WriteKey]) -> dict[WriteKey, Event]:
    """Return the events that are stored under these keys, by key, in one query."""
    if not keys:
        return {}
    # «session IN … AND write_key IN …» would look each key up in each session. For «(session, write_key) IN
    # (VALUES …)» SQLite reads the whole table. SQLite executes a CROSS JOIN in the order that is written.
    values = [value for session, key in keys for value in (_prepare_id(session), key)]
    places = ",".join(["(%s,%s)"] * len(keys))
    table = connection.ops.quote_name(Event._meta.db_table)
    found = Event.objects.raw(
        f"SELECT {table}.* FROM (VALUES {places}) AS wanted CROSS JOIN {table}"
        f" WHERE {table}.session_id = wanted.column1 AND {table}.write_key = wanted.column2",
        values,
    )
    return {(event.session_id, event.write_key): event for event in found}


def _prepare_id(session_id: UUID) -> Any:
    """Return a session's id as a parameter of SQL."""
    return Session._meta.pk.get_db_prep_value(session_id, connection)


def save_marks(sessions: Collection[Session]) -> None:
    """Store MARKS and `active_at` of many sessions in one statement. Their rows must be locked."""
    if not sessions:
        return
    # This costs a sixth of an UPDATE for each of fifty sessions (measured). It needs SQLite 3.33, of 2020.
    values: list[Any] = []
    for session in sessions:
        values += [getattr(session, name) for name in MARKS]
        values += [_prepare_id(session.pk), connection.ops.adapt_datetimefield_value(session.active_at)]
    names = (*MARKS, "id", "active_at")
    row = f"({','.join(['%s'] * len(names))})"
    table = connection.ops.quote_name(Session._meta.db_table)
    columns = {name: f"new.column{place}" for place, name in enumerate(names, 1)}
    changes = ", ".join(f"{name} = {columns[name]}" for name in names if name != "id")
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {changes} FROM (VALUES {','.join([row] * len(sessions))}) AS new"
            f" WHERE {table}.id = {columns['id']}",
            values,
        )


def check_same(event: NewEvent, before: Event) -> None:
    """Raise WireError 400 `client_id_reused` if the stored event with the same key has other content.

    Hidden arguments are compared until their action is handled; after that only their names and types are.
    """
    stored = wire.unstamp(before.data)
    same = stored == event.body or (event.clean is not None and event.clean(stored) == event.body)
    if same and event.hidden is not None and before.hidden_text is not None:
        same = access.decrypt(before.hidden_text) == event.hidden
    if not same:
        message = "This client_id was used for another action. Use a new one for each action."
        raise WireError(400, "client_id_reused", message)
