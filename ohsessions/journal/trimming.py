"""Forgetting the beginning of a log."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from ohsessions.models import Event, Session


@transaction.atomic
def trim(session_id: UUID, below: int) -> int:
    """Deletes a session's events with numbers under `below`; gives how many there were.

    Never passes an action that is not handled: from the first pending one on everything stays. Who attaches
    with an older cursor is told to start anew (`reset`), and so is who is being fed.
    """
    session = Session.objects.select_for_update().defer("snapshot", "secrets").filter(pk=session_id).first()
    if session is None:
        return 0
    kept = session.handled_number + 1 if session.has_pending_work else session.next_number
    below = min(below, kept)
    if below <= session.first_number:
        return 0
    count, _ = Event.objects.filter(session=session, number__lt=below).delete()
    session.first_number = below
    session.save(update_fields=["first_number"])
    return count
