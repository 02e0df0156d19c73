"""Events as rows: made with a session's next number, and found again by their write keys."""

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
"""What an event is known by: its session and its key in it."""


def new_row(session: Session, event: NewEvent, now: datetime) -> Event:
    """The row of an event, with the next number of its session, which is raised. The row must be locked."""
    number = session.next_number
    session.next_number += 1
    session.active_at = now
    if event.source == "user":
        session.last_user_number = number
    if event.waits:
        session.last_action_number = number
    return Event(
        session_id=session.pk,
        number=number,
        source=event.source,
        kind=event.kind[:64],
        data=wire.stamp(event.body, number, now),
        write_key=event.write_key,
        hidden_text=None if event.hidden is None else access.encrypt(event.hidden),
        created_at=now,
    )


def find_rows(keys: Collection[WriteKey]) -> dict[WriteKey, Event]:
    """The events that are stored under these keys, in one query."""
    if not keys:
        return {}
    # Pairs: «session IN … AND write_key IN …» would look each key up in each session.
    prepare: Any = Event._meta.get_field("session").get_db_prep_value
    values = [value for session, key in keys for value in (prepare(session, connection), key)]
    places = ",".join(["(%s,%s)"] * len(keys))
    table = connection.ops.quote_name(Event._meta.db_table)
    found = Event.objects.raw(
        f"SELECT * FROM {table} WHERE (session_id, write_key) IN (VALUES {places})", values
    )
    return {(event.session_id, event.write_key): event for event in found}


def check_same(event: NewEvent, before: Event) -> None:
    """Raises WireError 400 `client_id_reused` if an event with the same key says something else.

    Hidden arguments can be compared only until they are handled; after that their names and types are.
    """
    same = wire.unstamp(before.data) == event.body
    if same and event.hidden is not None and before.hidden_text is not None:
        same = access.decrypt(before.hidden_text) == event.hidden
    if not same:
        message = "This client_id was used for another action; use a new one for each."
        raise WireError(400, "client_id_reused", message)
