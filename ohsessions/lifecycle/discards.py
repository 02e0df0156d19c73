"""Delete sessions: select them by the settings, and delete in steps that hold no lock for long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from ohsessions import journal, snapshots
from ohsessions.conf import conf
from ohsessions.core import states
from ohsessions.core.states import State, Trigger
from ohsessions.journal.trimming import STEP
from ohsessions.lifecycle.locked import Locked, try_lock
from ohsessions.models import Connection, Event, Session, SessionQuerySet, Transition
from ohsessions.snapshots import Snapshot

UNUSED = "its visitor did not come back"
"""The reason for closing a session without an owner: nobody can wake it while it is being deleted."""


def discardable(now: datetime) -> Iterator[SessionQuerySet]:
    """Yield queries for the sessions that nobody needs any more. An index answers each query."""
    if conf.CLOSED_RETENTION is not None:
        before = now - timedelta(seconds=conf.CLOSED_RETENTION)
        yield Session.objects.filter(state=State.CLOSED, worker=None, state_at__lt=before)
    if conf.ANONYMOUS_RETENTION is not None:
        before = now - timedelta(seconds=conf.ANONYMOUS_RETENTION)
        asleep = Q(state__in=states.ASLEEP) | Q(state=State.CLOSED, reason=UNUSED)
        yield Session.objects.filter(asleep, owner=None, state_at__lt=before)


@transaction.atomic
def discard(session_id: UUID, by: str) -> bool:
    """Delete a session that nobody needs any more, STEP rows at a time; return whether there is more to do.

    The session's row is deleted last, with its snapshot's file. The sweep deletes its workspace. Raises
    RowLocked.
    """
    locked = try_lock(session_id)
    if locked is None or not _may_go(locked) or locked.attached():
        return False
    session = locked.session
    if session.state != State.CLOSED:
        _close(locked, by)
        return True
    if session.first_number < session.next_number:
        journal.trim(session_id, session.next_number, STEP)
        return True
    if _delete_some(session.transitions.all()) or _delete_some(session.connections.all()):
        return True
    snapshots.replace(session, Snapshot(None))
    session.delete()
    return False


def _may_go(locked: Locked) -> bool:
    session = locked.session
    if session.state == State.CLOSED:
        return session.reason == UNUSED or _is_older(locked, session.state_at, conf.CLOSED_RETENTION)
    if session.owner_id is not None or session.state not in states.ASLEEP or session.has_pending_work:
        return False
    return _is_older(locked, max(session.state_at, session.active_at), conf.ANONYMOUS_RETENTION)


def _is_older(locked: Locked, moment: datetime, age: float | None) -> bool:
    return age is not None and moment < locked.now - timedelta(seconds=age)


def _close(locked: Locked, by: str) -> None:
    locked.move(Trigger.DISCARDED, UNUSED, by)
    locked.disown()
    locked.set_due(0)
    Event.objects.filter(session=locked.session, hidden_text__isnull=False).update(hidden_text=None)
    locked.save()


def _delete_some(rows: QuerySet[Transition] | QuerySet[Connection]) -> int:
    keys = list(rows.order_by("pk").values_list("pk", flat=True)[:STEP])
    return rows.filter(pk__in=keys).delete()[0] if keys else 0
