"""What any process does for sessions that nobody looks after: take over, wake, put to sleep."""

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
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.lifecycle import suspects
from ohsessions.lifecycle.locked import Change, Locked, try_lock
from ohsessions.lifecycle.owners import active_workers, waiting
from ohsessions.models import Connection, Session, SessionQuerySet


@transaction.atomic
def hand_over(
    session_id: UUID, worker: UUID, reason: str, *, died: bool = False, epoch: int | None = None
) -> Change | None:
    """Takes a session from a worker that is gone, or does not serve it; None if it was not that worker's, or
    not under this `epoch` any more.

    A worker that `died` may have died of this session: if that is so, it counts as a crash, so that one which
    kills its workers fails, and does not take the rest with it again and again.
    What nobody wants any more is not started elsewhere only to sleep: it sleeps, from its last checkpoint.
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
        locked.move(State.STARTING, reason, by)
    locked.disown()
    locked.set_due(locked.attached())
    falls_due = session.state == State.STARTING and session.passivate_at is not None
    if died and falls_due and not session.has_pending_work:
        locked.move(State.PASSIVATED, f"{reason}, and nobody is attached", by)
        locked.set_due(0)
    return locked.save()


@dataclass(frozen=True, slots=True)
class Owned:
    """What a worker has to know of a session of its own to notice that it missed something."""

    epoch: int
    last_user_number: int
    secrets_version: int


def owned_by(worker: UUID) -> dict[UUID, Owned]:
    """The sessions whose rows name a worker."""
    rows = Session.objects.filter(worker=worker)
    found = rows.values_list("pk", "epoch", "last_user_number", "secrets_version")
    return {row[0]: Owned(*row[1:]) for row in found}


LINE = 32
"""So many sessions may wait for a worker before those of a dead one are added to them."""


def left_behind(worker: UUID, limit: int) -> list[UUID]:
    """Sessions whose rows name a worker that is gone and that can be handed over now.

    Those that nobody wants need no worker to sleep. The others wait in line for one, and the line is kept
    short: somebody who comes new must not wait until thousands have been started. Without any worker there
    is no line to be kept short, and clients are to be told.
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
    """Sessions that `settle` has something to do for, and no others: they would crowd these out."""
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
    """Awake, nobody attached, and not due ever, since CLOSE_DELAY was None when the last one left; or due
    later than any delay allows, since the clock was set back."""
    slack = timedelta(seconds=policy.CLOCK_SLACK)
    undue = ~Q(forced_by="") & Q(passivate_at__gt=now + slack)
    latest = policy.due_time(0, now, conf.CLOSE_DELAY)
    if latest is not None:
        attached = Connection.objects.attached().filter(session=OuterRef("pk"))
        undue |= Q(~Exists(attached), passivate_at=None) | Q(passivate_at__gt=latest + slack)
    return Session.objects.filter(undue, state__in=states.AWAKE)


@transaction.atomic
def settle(session_id: UUID, by: str) -> Change | None:
    """Puts right what nobody looks after: wakes who is wanted, passivates without a start who is not, ends
    connections whose token was revoked. None: there was nothing to do."""
    locked = try_lock(session_id)
    if locked is None:
        return None
    session = locked.session
    revoked = locked.end_connections("revoked", token_version__lt=session.token_version)
    connections = locked.attached()
    due_at = session.passivate_at
    target = _settled_state(locked, connections) if session.worker_id is None else None
    if target is not None:
        locked.move(*target, by)
    locked.set_due(connections)
    if target is None and not revoked and session.passivate_at == due_at:
        return None
    return locked.save()


def _settled_state(locked: Locked, connections: int) -> tuple[State, str] | None:
    """Where a session that nobody owns has to go, and why."""
    session = locked.session
    wanted = connections or session.has_pending_work
    match session.state:
        case State.PASSIVATING | State.RUNNING:
            return State.STARTING, "its worker is gone"
        case State.STARTING if not wanted and session.passivate_at and session.passivate_at <= locked.now:
            return State.PASSIVATED, "everybody left before it was ready"
        case State.PASSIVATED if wanted:
            return State.STARTING, "a client is attached or an action pending"
        case State.FAILED if (
            connections and session.retry_at and policy.may_retry(session.retry_at, locked.now)
        ):
            return State.STARTING, "tried again"
    return None


def open_connections(gateway: UUID) -> dict[str, UUID]:
    """The session of each attached connection whose row names a gateway, by sid."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    return {sid: session for sid, session in rows.values_list("sid", "session") if session is not None}


def revoked(gateway: UUID) -> set[str]:
    """The attached connections of a gateway, by sid, whose session's tokens were revoked since, or whose link
    has come to its end."""
    rows = Connection.objects.attached().filter(gateway=gateway)
    rows = rows.filter(
        ~Q(token_version=F("session__token_version")) | Q(link__expires_at__lte=database_now())
    )
    return set(rows.values_list("sid", flat=True))


def end_reasons(sids: Iterable[str]) -> dict[str, str]:
    """Which of these connections were ended in the database, and why."""
    rows = Connection.objects.filter(sid__in=list(sids), ended_at__isnull=False)
    return dict(rows.values_list("sid", "end_reason"))


def presence(session_id: UUID) -> tuple[int, list[str]]:
    """How many connections are attached to a session, and the names of those who have one."""
    rows = Connection.objects.attached().filter(session=session_id)
    names = list(rows.values_list(f"user__{get_user_model().USERNAME_FIELD}", flat=True))
    return len(names), sorted({str(name) for name in names if name})
