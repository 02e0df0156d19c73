"""A session whose row is locked, and the one function that changes its state.

A life-cycle transaction first locks the row in a statement of its own. Only later statements read or
write connections. So two last disconnects at once cannot both count the other's connection. Several sessions
are locked in order of id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, Min

from ohsessions import access, journal
from ohsessions.conf import conf
from ohsessions.core import policy, states, wire
from ohsessions.core.errors import StaleEpoch
from ohsessions.core.faults import public_reason
from ohsessions.core.states import State, Trigger
from ohsessions.database import database_now, lock_rows
from ohsessions.journal import NewEvent
from ohsessions.models import Connection, Event, Session, Transition

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """The result of a transaction, to be announced after the commit."""

    session_id: UUID
    state: str
    reason: str
    """The part of the reason that users may read."""
    title: str
    head: int
    worker: UUID | None
    epoch: int
    stored: list[tuple[int, str]] = field(default_factory=list)
    moved: bool = False
    ended: bool = False
    """True if connections were ended."""
    former: UUID | None = None
    """The worker that owned the session before."""
    secrets_version: int = 0
    gives_up: bool = False
    """True if pending actions are given up: MAX_BUSY is over, so the session passivates despite them."""


class Locked:
    """A session whose row is locked, and the changes to it."""

    def __init__(self, session: Session, now: datetime) -> None:
        self.session = session
        self.now = now
        ran = policy.seconds_since(session.state_at, now)
        if session.state == State.RUNNING and ran >= policy.STABLE_AFTER:
            session.crashes = session.suspicion = 0
        self.stored: list[tuple[int, str]] = []
        self.moved = False
        self.ended = False
        self.former: UUID | None = None

    def move(self, trigger: Trigger, reason: str, by: str) -> None:
        """Change the state to the next one after `trigger`, and store a Transition. No other code does so.

        Raises IllegalTransition, and changes nothing then.
        """
        session = self.session
        origin = session.state
        target = states.next_state(origin or None, trigger)
        session.state = target
        session.reason = reason[:300]
        session.state_at = self.now
        session.epoch += target is not State.RUNNING
        Transition.objects.create(
            session=session,
            origin=origin,
            target=target,
            reason=session.reason,
            by=by[:200],
            epoch=session.epoch,
            at=self.now,
        )
        self.moved = True

    def write(self, name: str, body: str) -> None:
        """Append an event of our own. Each name can be used once per epoch."""
        kind = name.partition(":")[0]
        event = NewEvent("environment", kind, body, write_key=f"{self.session.epoch}.{name}")
        row = journal.new_row(self.session, event, self.now)
        row.save(force_insert=True)
        self.stored.append((row.number, row.data))

    def write_agent_state(self, state: str) -> None:
        self.write(f"agent_state_changed:{state}", wire.agent_state(state))

    def tell(self, reason: str, message: str, cause: int) -> None:
        """Append an error of our own, for the session's users."""
        self.write(f"error:{reason}", wire.stored_error(reason, message, cause))

    def give_up_actions(self, up_to: int, reason: str, message: str) -> None:
        """Mark the pending actions up to a number as handled, and append an error about the first of them."""
        session = self.session
        pending = Event.objects.filter(session=session, source="user", number__gt=session.handled_number)
        pending = pending.filter(number__lte=up_to).exclude(kind__in=wire.INTERRUPTS)
        found = pending.aggregate(first=Min("number"), last=Max("number"))
        if found["first"] is None:
            return
        self.tell(reason, message, found["first"])
        session.handled_number = found["last"]
        kept = Event.objects.filter(session=session, hidden_text__isnull=False, number__lte=found["last"])
        kept.update(hidden_text=None)

    def attached(self) -> int:
        return Connection.objects.attached().filter(session=self.session).count()

    def end_connections(self, reason: str, *, but: str = "", **which: Any) -> bool:
        """End the attached connections, or `which` of them, except sid `but`; return whether any were."""
        rows = Connection.objects.attached().filter(session=self.session, **which).exclude(sid=but)
        ended = bool(rows.update(ended_at=self.now, end_reason=reason[:100]))
        self.ended |= ended
        return ended

    def set_due(self, connections: int) -> None:
        """Set or clear `passivate_at`, depending on the number of connections.

        Keep an existing due time, so that repeated takeovers and crashes cannot postpone passivation. Reduce
        a due time further away than CLOSE_DELAY: then the clock was set back. If an operator or the quota
        wants the session to sleep (`forced_by`), keep the due time until the session has slept, even if
        clients attach.
        """
        session = self.session
        if session.state not in states.AWAKE:
            session.passivate_at = None
        elif session.forced_by:
            if session.passivate_at is not None:
                session.passivate_at = policy.believed_due_time(session.passivate_at, self.now, 0)
        elif connections:
            session.passivate_at = None
        elif session.passivate_at is None:
            session.passivate_at = policy.due_time(0, self.now, conf.CLOSE_DELAY)
        else:
            session.passivate_at = policy.believed_due_time(session.passivate_at, self.now, conf.CLOSE_DELAY)

    def crash(self, reason: str, by: str) -> None:
        """Count a crash: the session is tried again later, or fails beyond its budget."""
        session = self.session
        session.crashes += 1
        session.retry_at = self.now + timedelta(seconds=policy.retry_delay(session.crashes))
        beyond = policy.is_beyond_budget(session.crashes)
        self.move(Trigger.CRASHED_TOO_OFTEN if beyond else Trigger.CRASHED, reason, by)
        if session.state == State.FAILED:
            self.write_agent_state("error")

    def disown(self) -> None:
        self.former = self.session.worker_id
        self.session.worker = None
        self.session.forced_by = ""

    def save(self) -> Change:
        self.session.save()
        return self.change()

    def change(self) -> Change:
        session = self.session
        return Change(
            session.pk,
            session.state,
            public_reason(session.reason),
            session.title,
            session.head,
            session.worker_id,
            session.epoch,
            self.stored,
            self.moved,
            self.ended,
            self.former,
            session.secrets_version,
        )


HEAVY = ("settings", "secrets", "snapshot")
"""Large fields that most transactions need not read."""


def lock_all(session_ids: Iterable[UUID]) -> dict[UUID, Locked]:
    """Lock the rows of sessions, in order of id. Deleted sessions are left out. Raises RowLocked."""
    rows = Session.objects.filter(pk__in=set(session_ids)).order_by("pk")
    sessions = lock_rows(rows.defer(*HEAVY))
    if not sessions:
        return {}
    now = database_now()
    return {session.pk: Locked(session, now) for session in sessions}


def try_lock(session_id: UUID) -> Locked | None:
    """Lock a session's row; return None if there is none."""
    return lock_all([session_id]).get(session_id)


def lock(session_id: UUID) -> Locked:
    """Lock a session's row. Raises WireError 404 if there is none."""
    locked = try_lock(session_id)
    if locked is None:
        raise access.unknown_session()
    return locked


def lock_owned(session_id: UUID, epoch: int) -> Locked:
    """Lock a session for its owner. Raises StaleEpoch if the caller no longer owns it."""
    return check_owned(try_lock(session_id), session_id, epoch)


def check_owned(locked: Locked | None, session_id: UUID, epoch: int) -> Locked:
    """Return a locked session. Raises StaleEpoch if the session is gone, or has another epoch."""
    if locked is None or policy.is_stale(locked.session, epoch):
        logger.info("Session %s has another owner", session_id, extra={"verb": "stale"})
        raise StaleEpoch
    return locked
