"""A session whose row is locked, and the one function that changes its state.

A life-cycle transaction first locks the row in a statement of its own, and only then, in a new statement,
reads or writes connections: two last disconnects at once cannot both see the other. Several sessions are
locked in order of id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from ohsessions import access, journal
from ohsessions.conf import conf
from ohsessions.core import policy, states, wire
from ohsessions.core.errors import StaleEpoch, WireError
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.journal import NewEvent
from ohsessions.models import Connection, Session, Transition


@dataclass(frozen=True, slots=True)
class Change:
    """What the world has to hear of after the commit."""

    session_id: UUID
    state: str
    reason: str
    title: str
    head: int
    worker: UUID | None
    epoch: int
    stored: list[tuple[int, str]] = field(default_factory=list)
    moved: bool = False
    ended: bool = False
    """Whether connections were ended."""
    former: UUID | None = None
    """The worker from whom it was taken."""


class Locked:
    """A session whose row is locked, and what is being done to it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.now = database_now()
        self.stored: list[tuple[int, str]] = []
        self.moved = False
        self.ended = False
        self.former: UUID | None = None

    def move(self, target: State, reason: str, by: str) -> None:
        """The one place where a state changes."""
        session = self.session
        origin = session.state
        session.state = states.move(origin or None, target)
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
        """Appends an event of our own, once per epoch and name."""
        kind = name.partition(":")[0]
        event = NewEvent("environment", kind, body, write_key=f"{self.session.epoch}.{name}")
        row = journal.new_row(self.session, event, self.now)
        row.save(force_insert=True)
        self.stored.append((row.number, row.data))

    def write_agent_state(self, state: str) -> None:
        self.write(f"agent_state_changed:{state}", wire.agent_state(state))

    def attached(self) -> int:
        return Connection.objects.attached().filter(session=self.session).count()

    def end_connections(self, reason: str) -> None:
        rows = Connection.objects.attached().filter(session=self.session)
        self.ended |= bool(rows.update(ended_at=self.now, end_reason=reason))

    def set_due(self, connections: int) -> None:
        """Sets `passivate_at` as the number of connections demands it, where the session is awake."""
        session = self.session
        if session.state in (State.STARTING, State.RUNNING, State.PASSIVATING):
            session.passivate_at = policy.due_time(connections, self.now, conf.CLOSE_DELAY)
        else:
            session.passivate_at = None
        if connections:
            session.forced_by = ""

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
            session.reason,
            session.title,
            session.head,
            session.worker_id,
            session.epoch,
            self.stored,
            self.moved,
            self.ended,
            self.former,
        )


def lock(session_id: UUID) -> Locked:
    """Locks a session's row. Raises WireError 404 if there is none."""
    session = Session.objects.select_for_update().filter(pk=session_id).first()
    if session is None:
        raise access.unknown_session()
    return Locked(session)


def lock_owned(session_id: UUID, epoch: int) -> Locked:
    """Locks a session for its owner. Raises StaleEpoch if that is no longer the caller."""
    try:
        locked = lock(session_id)
    except WireError as error:
        raise StaleEpoch from error
    if locked.session.epoch != epoch:
        raise StaleEpoch
    return locked
