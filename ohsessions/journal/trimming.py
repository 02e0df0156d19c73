"""Delete the beginning of a log."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Func, IntegerField, Min, Sum

from ohsessions.core import wire
from ohsessions.core.states import State
from ohsessions.database import lock_rows
from ohsessions.journal.rows import MARKS
from ohsessions.models import Event, Session

STEP = 500
"""The most events that one step deletes: its session's row is locked meanwhile."""
STEP_BYTES = 16 * 1024 * 1024
"""Bytes of JSON after which a step ends, even with fewer events."""
READ = (*MARKS, "state", "first_number")


class Bytes(Func):
    """The size of a text in bytes. PostgreSQL knows the size of a large text without reading it."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **context)


@transaction.atomic
def trim(session_id: UUID, below: int, most: int = STEP) -> int:
    """Delete a session's events with numbers under `below`, at most `most` of them; return how many.

    The first action that is not handled, the first interrupt that is not delivered, and all later events are
    kept. A client with an older cursor gets `reset`, when it attaches or while it is fed. Raises RowLocked.
    """
    session = _lock(session_id)
    return _trim(session, min(below, session.first_number + most)) if session is not None else 0


@transaction.atomic
def trim_to_size(session_id: UUID, size: int, before: datetime) -> int:
    """Delete the oldest events of a log that is larger than `size` bytes, at most STEP of them; see trim().

    Events stored since `before` are kept: a sender whose answer was lost may send them again.
    """
    session = _lock(session_id)
    if session is None or session.log_bytes <= size:
        return 0
    rows = Event.objects.filter(session=session, created_at__lt=before).order_by("number")
    below, excess = session.first_number, session.log_bytes - size
    left = STEP_BYTES
    for number, length in rows.values_list("number", Bytes("data"))[:STEP]:
        if excess <= 0 or left <= 0:
            break
        below, excess, left = number + 1, excess - length, left - length
    return _trim(session, below)


def first_kept(session_id: UUID) -> int:
    """Return the number from which on a session's log must be kept; 0 if there is no such session."""
    session = Session.objects.only(*READ).filter(pk=session_id).first()
    return _first_kept(session) if session is not None else 0


def _lock(session_id: UUID) -> Session | None:
    return next(iter(lock_rows(Session.objects.only(*READ).filter(pk=session_id))), None)


def _trim(session: Session, below: int) -> int:
    below = min(below, _first_kept(session))
    if below <= session.first_number:
        return 0
    old = Event.objects.filter(session=session, number__lt=below)
    size = old.aggregate(size=Sum(Bytes("data")))["size"] or 0
    count, _ = old.delete()
    session.first_number = below
    # `log_bytes` may not include rows that other code inserted.
    session.log_bytes = max(0, session.log_bytes - size) if below < session.next_number else 0
    session.save(update_fields=["first_number", "log_bytes"])
    return count


def _first_kept(session: Session) -> int:
    """Return the number from which on a runtime may still need the log."""
    if session.has_pending_work:
        return session.handled_number + 1
    if session.state == State.CLOSED:
        return session.next_number
    # Interrupts are no pending work. An owner reads the events after `handled_number`. It delivers the
    # interrupts after `interrupted_number`.
    read = max(session.handled_number, session.interrupted_number)
    left = Event.objects.filter(session=session, source="user", kind__in=wire.INTERRUPTS, number__gt=read)
    first = left.aggregate(first=Min("number"))["first"]
    return session.next_number if first is None else int(first)
