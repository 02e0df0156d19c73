"""Sweeps of any process over sessions that no process looks after: take over, wake, passivate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from ohsessions.conf import conf
from ohsessions.core import policy, states
from ohsessions.core.states import State, Trigger
from ohsessions.database import database_now
from ohsessions.lifecycle import suspects
from ohsessions.lifecycle.locked import Change, Locked, try_lock
from ohsessions.lifecycle.owners import active_workers, waiting
from ohsessions.models import Connection, Session, SessionQuerySet


@transaction.atomic
def hand_over(
    session_id: UUID, worker: UUID, reason: str, *, died: bool = False, epoch: int | None = None
) -> Change | None:
    """Take a session from a worker that is gone, or does not serve it. Return None if the session is not that
    worker's, or no longer has this `epoch`.

    A worker that `died` may have died of this session. Such a death counts as a crash: a session that
    kills its workers fails, and does not stop the others again and again. A session of a dead worker that
    nobody wants is not started only to sleep: it is passivated, with its last checkpoint.
    """
    locked = try_lock(session_id)
    if locked is None or locked.session.worker_id != worker:
        return None
    session, by = locked.session, f"worker {worker}"
    if epoch is not None and session.epoch != epoch:
        return None
    if died and suspects.is_blamed(locked, worker):
        when = (
            "while it started" if session.state == State.STARTING else "soon after it had started, as before"
        )
        locked.crash(f"{reason}, {when}", by)
    else:
        locked.move(Trigger.WORKER_GONE if died else Trigger.HANDED_OVER, reason, by)
    locked.disown()
    locked.set_due(locked.attached())
    falls_due = session.state == State.STARTING and session.passivate_at is not None
    if died and falls_due and not session.has_pending_work:
        locked.move(Trigger.ABANDONED, f"{reason}, and nobody is attached", by)
        locked.set_due(0)
    return locked.save()


@dataclass(frozen=True, slots=True)
class Owned:
    """The fields of a session by which its worker notices that it missed something."""

    epoch: int
    last_user_number: int
    secrets_version: int


def owned_by(worker: UUID) -> dict[UUID, Owned]:
    """Return the sessions whose rows name a worker, by id."""
    rows = Session.objects.filter(worker=worker)
    found = rows.values_list("pk", "epoch", "last_user_number", "secrets_version")
    return {row[0]: Owned(*row[1:]) for row in found}


LINE = 32
"""The most sessions that wait for a worker before sessions of a dead worker are added to them."""


def left_behind(worker: UUID, limit: int) -> list[UUID]:
    """Return the sessions of a worker that is gone which can be handed over now.

    Sessions that nobody wants need no worker to sleep. The others wait in line for a worker. The line is kept
    short, so that a new client does not wait until thousands of sessions have started. Without an active
    worker the line is not kept short, and the clients must be notified.
    """
    now = database_now()
    attached = Connection.objects.attached().filter(session=OuterRef("pk"))
    pending = Q(last_action_number__gt=F("handled_number"))
    wanted = Exists(attached) | pending
    left = Session.objects.filter(worker=worker).order_by("pk")
    room = LINE - waiting(now)[:LINE].count() if active_workers().exists() else limit
    rows = [*left.filter(wanted).values_list("pk", flat=True)[:room]]
    return [*rows, *left.exclude(wanted).values_list("pk", flat=True)[:limit]]


def strays(limit: int = 200) -> list[UUID]:
    """Return the sessions that `settle` can correct, and no others, since they would crowd these out."""
    now = database_now()
    attached = Connection.objects.attached()
    outdated = attached.filter(token_version__lt=F("session__token_version"))
    late = now + timedelta(seconds=policy.RETRY_MOST)  # see policy.may_retry()
    retry = Q(session__retry_at__lte=now) | Q(session__retry_at__gt=late)
    asleep = attached.filter(Q(session__state=State.PASSIVATED) | Q(retry, session__state=State.FAILED))
    pending = Session.objects.with_pending_work().filter(state=State.PASSIVATED)
    unowned = Session.objects.filter(worker=None)
    lost = unowned.filter(state__in=[State.PASSIVATING, State.RUNNING])
    idle = Session.objects.filter(last_action_number__lte=F("handled_number"))
    left = idle.filter(state=State.STARTING, worker=None, passivate_at__lte=now)
    found: dict[UUID, None] = {}
    for rows in (outdated, asleep):
        found |= dict.fromkeys(rows.values_list("session", flat=True).distinct()[:limit])
    for sessions in (pending, lost, left, _undue(now)):
        found |= dict.fromkeys(sessions.order_by("state_at").values_list("pk", flat=True)[:limit])
    return list(found)


def _undue(now: datetime) -> SessionQuerySet:
    """Return awake sessions whose due time is missing or too late.

    The due time is missing, with nobody attached, if CLOSE_DELAY was None when the last connection left. The
    due time is later than any delay allows if the clock was set back.
    """
    slack = timedelta(seconds=policy.CLOCK_SLACK)
    undue = ~Q(forced_by="") & Q(passivate_at__gt=now + slack)
    latest = policy.due_time(0, now, conf.CLOSE_DELAY)
    if latest is not None:
        attached = Connection.objects.attached().filter(session=OuterRef("pk"))
        undue |= Q(~Exists(attached), passivate_at=None) | Q(passivate_at__gt=latest + slack)
    return Session.objects.filter(undue, state__in=states.AWAKE)


@transaction.atomic
def settle(session_id: UUID, by: str) -> Change | None:
    """Correct a session that no process looks after; return None if there was nothing to do.

    Wake a wanted session, passivate an unwanted one without a start, and end connections whose token was
    revoked.
    """
    locked = try_lock(session_id)
    if locked is None:
        return None
    session = locked.session
    revoked = locked.end_connections("revoked", token_version__lt=session.token_version)
    connections = locked.attached()
    due_at = session.passivate_at
    found = _what_happened(locked, connections) if session.worker_id is None else None
    if found is not None:
        locked.move(*found, by)
    locked.set_due(connections)
    if found is None and not revoked and session.passivate_at == due_at:
        return None
    return locked.save()


def _what_happened(locked: Locked, connections: int) -> tuple[Trigger, str] | None:
    """Return what happened to a session without an owner, and the reason to store; None if it may stay."""
    session = locked.session
    wanted = connections or session.has_pending_work
    match session.state:
        case State.PASSIVATING | State.RUNNING:
            return Trigger.WORKER_GONE, "its worker is gone"
        case State.STARTING if not wanted and session.passivate_at and session.passivate_at <= locked.now:
            return Trigger.ABANDONED, "everybody left before it was ready"
        case State.PASSIVATED if wanted:
            return Trigger.WANTED, "a client is attached or an action pending"
        case State.FAILED if (
            connections and session.retry_at and policy.may_retry(session.retry_at, locked.now)
        ):
            return Trigger.RETRIED, "tried again"
    return None


def open_connections(gateway: UUID) -> dict[str, UUID]:
    """Return the session of each attached connection of a gateway, by sid."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    return {sid: session for sid, session in rows.values_list("sid", "session") if session is not None}


def revoked(gateway: UUID) -> set[str]:
    """Return the sids of a gateway's attached connections whose session's tokens were revoked since, or whose
    link has expired."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    rows = rows.filter(
        ~Q(token_version=F("session__token_version")) | Q(link__expires_at__lte=database_now())
    )
    return set(rows.values_list("sid", flat=True))


def end_reasons(sids: Iterable[str]) -> dict[str, str]:
    """Return the end reasons, by sid, of those of these connections that were ended in the database."""
    rows = Connection.objects.filter(sid__in=list(sids), ended_at__isnull=False)
    return dict(rows.values_list("sid", "end_reason"))


def presence(session_id: UUID) -> tuple[int, list[str]]:
    """Return the number of connections attached to a session, and the names of their users, sorted."""
    rows = Connection.objects.attached().filter(session=session_id)
    names = list(rows.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True))
    return len(names), sorted({str(name) for name in names if name})
