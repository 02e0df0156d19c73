"""Operations of owners and operators on a session: rename, close, wake and passivate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Min

from ohsessions import access, vault
from ohsessions.access import Role
from ohsessions.conf import conf
from ohsessions.core import states, wire
from ohsessions.core.errors import WireError
from ohsessions.core.redaction import Redactor
from ohsessions.core.states import State, Trigger
from ohsessions.core.titles import MAX_TITLE, clean_title
from ohsessions.lifecycle.locked import Change, lock
from ohsessions.models import Event, Session


@transaction.atomic
def rename(session_id: UUID, title: str) -> Change:
    """Store a session's title, cleaned, cut to MAX_TITLE characters, and without secrets of the session."""
    locked = lock(session_id)
    title = clean_title(title)  # first: a removed character could stand in the middle of a secret
    if locked.session.secrets_version:
        title = Redactor(vault.unlock(0, locked.session.secrets).texts).redact(title)
    locked.session.title = title[:MAX_TITLE]
    return replace(locked.save(), moved=True)


def close_for(user: Any, role: Role, session_id: UUID) -> Change:
    """Close a session for good, if the policy allows this user to. Raises WireError 403 `role`, or 404."""
    session = Session.objects.filter(pk=session_id).first()
    if session is None:
        raise access.unknown_session()
    if not access.policy().may_close(user, session, role):
        raise WireError(403, "role", "Only its owner may close a session.")
    return close(session_id, by=user.get_username() or "its owner")


@transaction.atomic
def close(session_id: UUID, *, by: str, reason: str = "closed") -> Change:
    """Close a session for good; it stays readable. Closing a closed session changes nothing."""
    locked = lock(session_id)
    session = locked.session
    if session.state == State.CLOSED:
        return locked.change()
    was_awake = session.state in states.AWAKE
    locked.move(Trigger.CLOSED, reason, by)
    if session.has_pending_work:
        message = "The session was closed before this action, and those after it, were handled."
        locked.tell("session_closed", message, _first_pending(session))
        session.handled_number = session.last_action_number
    if was_awake:
        locked.write_agent_state("stopped")
    locked.disown()
    locked.set_due(0)
    Event.objects.filter(session=session, hidden_text__isnull=False).update(hidden_text=None)
    return locked.save()


def _first_pending(session: Session) -> int:
    actions = Event.objects.filter(session=session, source="user", number__gt=session.handled_number)
    first = actions.exclude(kind__in=wire.INTERRUPTS).aggregate(first=Min("number"))["first"]
    return session.last_action_number if first is None else int(first)


@transaction.atomic
def force_passivation(session_id: UUID, *, by: str) -> tuple[Change, str]:
    """Passivate a session regardless of connections and work; end its connections first.

    Return also a message that says what happens now. The owner does the rest, or this function if there is no
    owner.
    """
    locked = lock(session_id)
    session = locked.session
    if session.state not in states.AWAKE:
        return locked.change(), f"Nothing to do: the session is {session.state}."
    locked.end_connections("operator")
    session.passivate_at = locked.now
    if session.state == State.STARTING and session.worker_id is None:
        locked.move(Trigger.FORCED, "by an operator", by)
        locked.disown()
        locked.set_due(0)
        return locked.save(), "The session was passivated before it had started."
    if session.state == State.PASSIVATING:
        return locked.save(), "It was being passivated already. Its connections are closed now."
    session.forced_by = by[:150] or "an operator"
    return locked.save(), "Its worker passivates the session now."


@transaction.atomic
def wake(session_id: UUID, *, by: str) -> tuple[Change, str]:
    """Start a session that sleeps or has failed: at once, with a new budget of crashes.

    Return also a message that says what happens now. A session without connections falls due as if the last
    connection had just left.
    """
    locked = lock(session_id)
    session = locked.session
    if session.state not in states.ASLEEP:
        return locked.change(), f"Nothing to do: the session is {session.state}."
    session.crashes, session.suspicion, session.retry_at = 0, 0, None
    locked.move(Trigger.WOKEN, "by an operator", by)
    locked.set_due(locked.attached())
    outcome = "The session starts as soon as a worker takes it."
    if session.passivate_at is not None:
        outcome += f" Unless a client attaches, it is passivated after {conf.CLOSE_DELAY:g} s."
    return locked.save(), outcome
