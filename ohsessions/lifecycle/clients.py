"""What clients and operators do to a session: open, attach, detach, rename, close, passivate by force."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import IntegrityError, transaction

from ohsessions import access
from ohsessions.access import Grant, Role
from ohsessions.conf import conf
from ohsessions.core import states, wire
from ohsessions.core.errors import ProcessGone, WireError
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.lifecycle.locked import Change, Locked, lock
from ohsessions.models import Connection, Event, Process, Session
from ohsessions.wakeups import Wakeups

INIT_REPEAT = timedelta(minutes=10)
"""How long a repeated INIT with the same client_id gives the same session."""


@dataclass(frozen=True, slots=True)
class Socket:
    """What a connection's row says of its socket. `user` is Django's, or an AnonymousUser."""

    sid: str
    gateway: UUID
    user: Any
    transport: str = "websocket"
    address: str = ""
    user_agent: str = ""
    connected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """The outcome of an attach. `token` is the one that came in, or a new one if none came."""

    change: Change
    role: Role
    token: str
    first_number: int
    token_version: int
    left: Change | None = None
    """What became of the session that the connection was attached to before."""


def _name(user: Any) -> str:
    return f"user {user.get_username()}" if user.is_authenticated else "anonymous user"


def open_session(socket: Socket, init: wire.Init, leaving: UUID | None = None) -> Attached:
    """Makes a session, or finds the one that the same INIT made, and attaches the connection to it.

    Raises WireError 400 `unknown_runtime`, 401 `login_required`.
    """
    access.check_may_open(socket.user)
    runtime = init.runtime or conf.DEFAULT_RUNTIME
    if runtime not in conf.RUNTIMES:
        known = ", ".join(conf.RUNTIMES)
        raise WireError(400, "unknown_runtime", f"There is no runtime {runtime!r}. There are: {known}.")
    try:
        return _open(socket, init, runtime, leaving)
    except IntegrityError:  # the same INIT came twice at once: the other one made it
        return _open(socket, init, runtime, leaving)


@transaction.atomic
def _open(socket: Socket, init: wire.Init, runtime: str, leaving: UUID | None) -> Attached:
    old = _try_lock(leaving)
    user, now = socket.user, database_now()
    key = _init_key(user, init.client_id)
    before = Session.objects.filter(init_key=key).first() if key else None
    if before is not None and before.created_at > now - INIT_REPEAT:
        return _attach(socket, Grant(before, Role.OWNER, None), init, lock(before.pk), old)
    if before is not None:
        Session.objects.filter(pk=before.pk).update(init_key=None)
    session = Session.objects.create(
        owner=user if user.is_authenticated else None,
        runtime=runtime,
        settings=init.settings,
        secrets=access.encrypt(wire.encode(init.secrets)) if init.secrets else "",
        init_key=key,
        created_at=now,
        state_at=now,
        active_at=now,
    )
    locked = Locked(session)
    locked.move(State.STARTING, "a new session", _name(user))
    return _attach(socket, Grant(session, Role.OWNER, None), init, locked, old)


def _try_lock(session_id: UUID | None) -> Locked | None:
    try:
        return lock(session_id) if session_id else None
    except WireError:
        return None


def _init_key(user: Any, client_id: str | None) -> str | None:
    """Who sent which client_id: nobody else's INIT with the same one may lead here."""
    if client_id is None:
        return None
    return hashlib.sha256(f"{user.pk}\0{client_id}".encode()).hexdigest()


@transaction.atomic
def attach(
    socket: Socket, init: wire.Init, session_id: UUID | None = None, leaving: UUID | None = None
) -> Attached:
    """Attaches a connection to the session that its token names; without one, to its user's `session_id`.

    A sleeping session becomes `starting`; a failed one if its time has come; a closed one stays so, and can
    be read. Raises WireError 401 `invalid_token` or 404 `unknown_session`, and changes nothing then.
    """
    grant = access.authorize(socket.user, init.token, session_id)
    wanted = grant.session.pk
    # Always in order of id, so that two connections that swap sessions do not wait for each other.
    locks = {pk: _try_lock(pk) for pk in sorted({wanted} | ({leaving} if leaving else set()))}
    locked = locks.pop(wanted)
    if locked is None:
        raise access.invalid_token() if grant.token else access.unknown_session()
    if grant.token is not None and locked.session.token_version != grant.session.token_version:
        raise access.invalid_token()
    return _attach(socket, grant, init, locked, locks.get(leaving) if leaving else None)


def _attach(socket: Socket, grant: Grant, init: wire.Init, locked: Locked, old: Locked | None) -> Attached:
    if old is not None and old.session.pk == locked.session.pk:
        old = None
    if not Process.objects.filter(pk=socket.gateway).exclude(state=Process.State.GONE).exists():
        raise ProcessGone
    role = Role.VIEWER if init.as_viewer else grant.role
    _save_connection(socket, locked, role)
    _wake_for_attach(locked, _name(socket.user))
    left = None
    if old is not None:
        old.set_due(old.attached())
        left = old.save()
    change = locked.save()
    token = grant.token or access.issue_token(locked.session, grant.role)
    return Attached(change, role, token, locked.session.first_number, locked.session.token_version, left)


def _save_connection(socket: Socket, locked: Locked, role: Role) -> None:
    Connection.objects.update_or_create(
        sid=socket.sid,
        defaults={
            "session": locked.session,
            "user": socket.user if socket.user.is_authenticated else None,
            "gateway_id": socket.gateway,
            "transport": socket.transport,
            "address": socket.address[:64],
            "user_agent": socket.user_agent[:300],
            "role": role,
            "token_version": locked.session.token_version,
            "connected_at": socket.connected_at or locked.now,
            "attached_at": locked.now,
            "ended_at": None,
            "end_reason": "",
        },
    )


def _wake_for_attach(locked: Locked, by: str) -> None:
    session = locked.session
    retry = session.retry_at is None or session.retry_at <= locked.now
    if session.state == State.PASSIVATED or (session.state == State.FAILED and retry):
        locked.move(State.STARTING, "a client attached", by)
    locked.set_due(1)


@transaction.atomic
def detach(sid: str, reason: str, *, leave: bool = False, sent_number: int | None = None) -> Change | None:
    """Ends a connection, or with `leave` only its attachment. None: there was nothing to detach.

    The last one to go starts the session's CLOSE_DELAY.
    """
    session_id = Connection.objects.attached().filter(sid=sid).values_list("session", flat=True).first()
    if session_id is None:
        return None
    locked = lock(session_id)
    rows = Connection.objects.filter(sid=sid, session=session_id, ended_at=None)
    values: dict[str, Any] = {"session": None, "attached_at": None} if leave else {"ended_at": locked.now}
    if sent_number is not None:
        values["sent_number"] = sent_number
    if not rows.update(**values, end_reason=reason[:100]):
        return None
    connections = locked.attached()
    if not connections:
        locked.set_due(0)
    return locked.save()


@transaction.atomic
def rename(session_id: UUID, title: str) -> None:
    """Gives a session a title, cut to 200 characters; from a request's thread. Tells all who are attached."""
    locked = lock(session_id)
    locked.session.title = title[:200]
    change = replace(locked.save(), moved=True)
    transaction.on_commit(lambda: async_to_sync(Wakeups().change)(change))


@transaction.atomic
def close(session_id: UUID, *, by: str, reason: str = "closed") -> Change:
    """Ends a session for good; it stays readable. Closing a closed one changes nothing."""
    locked = lock(session_id)
    if locked.session.state != State.CLOSED:
        was_awake = locked.session.state not in states.ASLEEP
        locked.move(State.CLOSED, reason, by)
        if was_awake:
            locked.write_agent_state("stopped")
        locked.disown()
        locked.set_due(0)
        Event.objects.filter(session=locked.session, hidden_text__isnull=False).update(hidden_text=None)
    return locked.save()


@transaction.atomic
def force_passivation(session_id: UUID, *, by: str) -> tuple[Change, str]:
    """Passivates a session regardless of connections and work: tells and detaches them first.

    Gives also what happens now, in words. The owner does the rest; without one it is done here.
    """
    locked = lock(session_id)
    session = locked.session
    if session.state not in (State.STARTING, State.RUNNING):
        return locked.change(), f"Nothing to do: the session is {session.state}."
    locked.end_connections("operator")
    if session.state == State.STARTING:
        locked.move(State.PASSIVATED, "by an operator", by)
        locked.disown()
        locked.set_due(0)
        return locked.save(), "The session was passivated before it had started."
    session.passivate_at = locked.now
    session.forced_by = by[:150]
    return locked.save(), "Its worker passivates the session now."


def request_passivation(session_id: UUID, *, by: str) -> str:
    """An operator's «passivate now», from a request's thread; gives what happens, in words.

    Raises WireError 404 if there is no such session.
    """
    change, outcome = force_passivation(session_id, by=by)
    transaction.on_commit(lambda: async_to_sync(Wakeups().change)(change))
    return outcome
