"""Operations of the worker that owns a session: claim, run, passivate, release, crash.

Every function that changes a session, except `claim`, takes the epoch under which the worker owns it. If the
session has another epoch by now, the function raises StaleEpoch and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Min, Q, QuerySet

from ohsessions import snapshots
from ohsessions.conf import conf
from ohsessions.core import policy
from ohsessions.core.errors import ProcessGone
from ohsessions.core.states import State, Trigger
from ohsessions.database import database_now
from ohsessions.lifecycle.locked import HEAVY, Change, Locked, check_owned, lock_owned, try_lock
from ohsessions.models import Process, Session, SessionQuerySet
from ohsessions.snapshots import Snapshot

BY_OPERATOR = "by an operator"
GIVEN_UP = (
    "This action, and those after it up to here, were given up: nobody was attached, and the session had been"
    " busy for MAX_BUSY. Send them again if they are still wanted."
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The fields of a session that its new owner needs."""

    session_id: UUID
    epoch: int
    runtime: str
    settings: dict[str, Any]
    secrets: str
    """Encrypted."""
    secrets_version: int
    snapshot: Snapshot
    """Not loaded yet: its file may be in a slow storage, and no transaction may wait for that."""
    started_number: int
    handled_number: int
    interrupted_number: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """The sessions that wait for a worker, with the seconds they have waited. `lightest` is the load of the
    least loaded of the other active workers; None if there is none, or no session waits."""

    sessions: list[tuple[UUID, float]]
    lightest: int | None


def waiting(now: datetime) -> SessionQuerySet:
    """Return the sessions that need a worker: they are starting, and their time has come.

    A session that everybody left before it was ready is not started any more (see settle()).
    """
    rows = Session.objects.filter(may_retry(now), state=State.STARTING, worker=None)
    return rows.exclude(passivate_at__lte=now, last_action_number__lte=F("handled_number"))


def may_retry(now: datetime) -> Q:
    """See core.policy.may_retry()."""
    latest = now + timedelta(seconds=policy.RETRY_MOST)
    return Q(retry_at=None) | Q(retry_at__lte=now) | Q(retry_at__gt=latest)


def wanted(worker: UUID, limit: int) -> Wanted:
    """Return the sessions that need a worker, longest waiting first, at most `limit`."""
    now = database_now()
    rows = waiting(now).order_by("state_at").values_list("pk", "state_at", "retry_at")
    sessions = [
        (pk, policy.seconds_since(max(state_at, retry_at or state_at), now))
        for pk, state_at, retry_at in rows[:limit]
    ]
    lightest = active_workers().exclude(pk=worker).aggregate(least=Min("load"))["least"] if sessions else None
    return Wanted(sessions, lightest)


def active_workers() -> QuerySet[Process]:
    return Process.objects.filter(kind=Process.Kind.WORKER, state=Process.State.ACTIVE)


@transaction.atomic
def claim(session_id: UUID, worker: UUID, load: int = 0) -> tuple[Claimed, Change] | None:
    """Make a worker the owner of a `starting` session. Return None if it has an owner, or nobody wants it.

    `load`: the number of sessions that the worker owns already. The worker's row counts one more at once, so
    that other workers see it. Raises ProcessGone if the worker is not active.
    """
    locked = try_lock(session_id)
    if locked is None or not _is_wanted(locked.session, locked.now):
        return None
    if not Process.objects.filter(pk=worker, state=Process.State.ACTIVE).update(load=load + 1):
        raise ProcessGone
    session = locked.session
    session.worker_id = worker
    session.epoch += 1
    session.retry_at = None
    locked.write_agent_state("loading")
    change = locked.save()
    session.refresh_from_db(fields=HEAVY)
    return _as_claimed(session), change


def _is_wanted(session: Session, now: datetime) -> bool:
    if session.state != State.STARTING or session.worker_id is not None:
        return False
    if not policy.may_retry(session.retry_at, now):
        return False
    left = session.passivate_at is not None and session.passivate_at <= now
    return session.has_pending_work or not left


def _as_claimed(session: Session) -> Claimed:
    return Claimed(
        session.pk,
        session.epoch,
        session.runtime,
        session.settings,
        session.secrets,
        session.secrets_version,
        snapshots.named_by(session),
        session.started_number,
        session.handled_number,
        session.interrupted_number,
        session.attempts,
    )


@transaction.atomic
def run(session_id: UUID, epoch: int) -> Change:
    """Move a session to `running`: its runtime is ready. A repetition changes nothing. Raises StaleEpoch."""
    locked = lock_owned(session_id, epoch)
    if locked.session.state == State.RUNNING:
        return locked.change()
    locked.move(Trigger.READY, "its runtime is ready", _owner(locked))
    locked.write_agent_state("init")
    return locked.save()


def _owner(locked: Locked) -> str:
    return f"worker {locked.session.worker_id}"


def due(worker: UUID) -> list[UUID]:
    """Return a worker's running sessions that are due for passivation, and its unwanted starts."""
    rows = Session.objects.filter(worker=worker, passivate_at__lte=database_now())
    rows = rows.filter(Q(state=State.RUNNING) | UNWANTED_START)
    return list(rows.values_list("pk", flat=True))


UNWANTED_START = Q(state=State.STARTING) & ~Q(forced_by="")


def is_unwanted_start(session_id: UUID, epoch: int) -> bool:
    """Return whether an operator or the quota wants a session to sleep that its owner is still starting."""
    return Session.objects.filter(UNWANTED_START, pk=session_id, epoch=epoch).exists()


@transaction.atomic
def end_start(session_id: UUID, epoch: int) -> Change | None:
    """Release an unwanted start after its owner has closed the runtime. Return None if the start is not
    unwanted. Raises StaleEpoch."""
    locked = lock_owned(session_id, epoch)
    session = locked.session
    if session.state != State.STARTING or not session.forced_by:
        return None
    locked.write_agent_state("stopped")
    why = _why_forced(session)
    return _let_go(locked, why, why, session.forced_by)


@transaction.atomic
def claim_passivation(session_id: UUID, epoch: int, *, busy: bool, reason: str = "") -> Change | None:
    """Move a due session to `passivating` for its owner. Return None if it is not due, or must still wait.

    With `reason` (a drain) neither counts: the caller has made sure that no action is being handled, and
    pending actions wait for the next owner. Repeating the call, after a COMMIT whose answer was lost, changes
    nothing. Raises StaleEpoch.
    """
    locked = try_lock(session_id)
    if locked is not None and locked.session.state == State.PASSIVATING and locked.session.epoch == epoch + 1:
        # Only the owner under `epoch` can have done that.
        return _passivation(locked, locked.change(), reason)
    locked = check_owned(locked, session_id, epoch)
    session = locked.session
    if session.state != State.RUNNING:
        return None
    if not reason and not policy.may_passivate(session, locked.now, busy=busy, max_busy=conf.MAX_BUSY):
        return None
    trigger = Trigger.DRAINED if reason else Trigger.DUE
    locked.move(trigger, reason or _why(session, busy), session.forced_by or _owner(locked))
    return _passivation(locked, locked.save(), reason)


def _passivation(locked: Locked, change: Change, drained: str) -> Change:
    """Return the change of a claim, with whether pending actions are given up. An operator's wish and a drain
    leave actions that were not begun to the next activation."""
    session = locked.session
    gives_up = session.has_pending_work and not (drained or session.forced_by)
    return replace(change, gives_up=gives_up)


def _why_forced(session: Session) -> str:
    return policy.QUOTA_REASON if session.forced_by == policy.BY_QUOTA else BY_OPERATOR


def _why(session: Session, busy: bool) -> str:
    """Return the reason of a passivation that is due."""
    if session.forced_by:
        return _why_forced(session)
    reason = f"no connection for {conf.CLOSE_DELAY} s"
    if busy or session.has_pending_work:
        reason += f", and busy for MAX_BUSY ({conf.MAX_BUSY:g} s) more"
    return reason


@transaction.atomic
def release(
    session_id: UUID, epoch: int, snapshot: Snapshot | None, reason: str = "", *, give_up: int = -1
) -> Change:
    """Finish a passivation: store the snapshot (None: keep the last checkpoint) and release the session.

    If somebody attached or acted meanwhile, the session starts again. `reason`: the problem, if there was
    one. `give_up`: the number up to which pending actions are given up, since MAX_BUSY was over. Raises
    StaleEpoch.
    """
    locked = lock_owned(session_id, epoch)
    session = locked.session
    by = session.forced_by or _owner(locked)
    why = session.reason
    if snapshot is not None:
        snapshots.replace(session, snapshot)
    session.suspicion = 0
    if give_up > session.handled_number:
        locked.give_up_actions(give_up, "interrupted", GIVEN_UP)
    locked.write_agent_state("stopped")
    return _let_go(locked, why, f"{why}; {reason}" if reason else why, by)


def _let_go(locked: Locked, why: str, reason: str, by: str) -> Change:
    """Release a session: to sleep, for `reason`, or to start, if somebody attached or acted meanwhile."""
    connections = locked.attached()
    if connections or locked.session.has_pending_work:
        locked.move(Trigger.RELEASED_BUT_WANTED, f"{why}; but a client is attached or an action pending", by)
        # The new work has a MAX_BUSY of its own. The one before may be over, and would end this start.
        locked.session.passivate_at = None
    else:
        locked.move(Trigger.RELEASED, reason, by)
    locked.disown()
    locked.set_due(connections)
    return locked.save()


@transaction.atomic
def crash(session_id: UUID, epoch: int, reason: str) -> Change:
    """Count a crash: the runtime could not start, or broke. Try again later, or fail beyond the budget.

    Raises StaleEpoch.
    """
    locked = lock_owned(session_id, epoch)
    locked.crash(reason, _owner(locked))
    locked.disown()
    locked.set_due(locked.attached())
    return locked.save()
