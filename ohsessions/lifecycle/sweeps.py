"""What any process does for sessions that nobody looks after: take over, wake, put to sleep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import F, Q

from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.lifecycle.locked import Change, lock
from ohsessions.models import Connection, Session


@transaction.atomic
def hand_over(session_id: UUID, worker: UUID, reason: str) -> Change | None:
    """Takes a session from a worker that is gone, or does not serve it; None if it was not that worker's."""
    locked = lock(session_id)
    if locked.session.worker_id != worker:
        return None
    locked.move(State.STARTING, reason, f"worker {worker}")
    locked.disown()
    locked.set_due(locked.attached())
    return locked.save()


def owned_by(worker: UUID) -> dict[UUID, tuple[int, int]]:
    """The sessions whose rows name a worker: of each the epoch, and the number of its last action."""
    rows = Session.objects.filter(worker=worker).values_list("pk", "epoch", "last_user_number")
    return {pk: (epoch, number) for pk, epoch, number in rows}


def strays(limit: int = 200) -> list[UUID]:
    """Sessions that `settle` has something to do for."""
    now = database_now()
    overdue = Q(state=State.STARTING, worker=None, passivate_at__lte=now)
    ownerless = Q(state__in=[State.PASSIVATING, State.RUNNING], worker=None)
    asleep = Q(state=State.PASSIVATED) | Q(state=State.FAILED, retry_at__lte=now)
    attached = Session.objects.filter(
        asleep, connections__isnull=False, connections__ended_at=None
    ).values_list("pk", flat=True)
    pending = Session.objects.with_pending_work().filter(state=State.PASSIVATED)
    others = Session.objects.filter(overdue | ownerless)
    found = [*attached.distinct()[:limit], *_ids(pending, limit), *_ids(others, limit)]
    return list(dict.fromkeys(found))


def _ids(rows: Any, limit: int) -> Iterable[UUID]:
    ids: Iterable[UUID] = rows.values_list("pk", flat=True)[:limit]
    return ids


@transaction.atomic
def settle(session_id: UUID, by: str) -> Change | None:
    """Puts right what nobody owns: wakes who is wanted, passivates without a start who is not; else None."""
    locked = lock(session_id)
    session = locked.session
    if session.worker_id is not None:
        return None
    connections = locked.attached()
    due = session.passivate_at is not None and session.passivate_at <= locked.now
    if session.state in (State.PASSIVATING, State.RUNNING):
        locked.move(State.STARTING, "its worker is gone", by)
    elif session.state == State.STARTING and due and not connections and not session.has_pending_work:
        locked.move(State.PASSIVATED, "everybody left before it was ready", by)
    elif session.state == State.PASSIVATED and (connections or session.has_pending_work):
        locked.move(State.STARTING, "a client is attached or an action pending", by)
    elif session.state == State.FAILED and connections:
        if session.retry_at is not None and session.retry_at > locked.now:
            return None
        locked.move(State.STARTING, "tried again", by)
    else:
        return None
    locked.set_due(connections)
    return locked.save()


def open_connections(gateway: UUID) -> dict[str, UUID]:
    """The session of each attached connection whose row names a gateway, by sid."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    return {sid: session for sid, session in rows.values_list("sid", "session") if session is not None}


def revoked(gateway: UUID) -> set[str]:
    """The attached connections of a gateway, by sid, whose session's tokens were revoked since."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    return set(rows.exclude(token_version=F("session__token_version")).values_list("sid", flat=True))


def end_reasons(sids: Iterable[str]) -> dict[str, str]:
    """Which of these connections were ended in the database, and why."""
    rows = Connection.objects.filter(sid__in=list(sids), ended_at__isnull=False)
    return dict(rows.values_list("sid", "end_reason"))


def presence(session_id: UUID) -> tuple[int, list[str]]:
    """How many connections are attached to a session, and the names of those who have one."""
    rows = Connection.objects.attached().filter(session=session_id)
    names = list(rows.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True))
    return len(names), sorted({str(name) for name in names if name})
