"""Forgetting the beginning of a log."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import Min

from ohsessions.core import wire
from ohsessions.core.states import State
from ohsessions.models import Event, Session


@transaction.atomic
def trim(session_id: UUID, below: int) -> int:
    """Deletes a session's events with numbers under `below`; gives how many there were.

    Never passes an action that is not handled, nor an interrupt that is not delivered: from the first of them
    on everything stays. Who attaches with an older cursor is told to start anew (`reset`), and so is who is
    being fed.
    """
    session = Session.objects.select_for_update().defer("snapshot", "secrets").filter(pk=session_id).first()
    if session is None:
        return 0
    below = min(below, _first_kept(session))
    if below <= session.first_number:
        return 0
    count, _ = Event.objects.filter(session=session, number__lt=below).delete()
    session.first_number = below
    session.save(update_fields=["first_number"])
    return count


def _first_kept(session: Session) -> int:
    """The number from which on a runtime may still need the log."""
    if session.has_pending_work:
        return session.handled_number + 1
    if session.state == State.CLOSED:
        return session.next_number
    # Interrupts are no pending work. An owner reads from what is handled on, and delivers from the mark on.
    read = max(session.handled_number, session.interrupted_number)
    left = Event.objects.filter(session=session, source="user", kind__in=wire.INTERRUPTS, number__gt=read)
    first = left.aggregate(first=Min("number"))["first"]
    return session.next_number if first is None else int(first)
