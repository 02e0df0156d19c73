"""Operations of connections on sessions: open, attach, detach."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from ohsessions import access, journal, vault
from ohsessions.access import Grant, Login, Role
from ohsessions.conf import conf
from ohsessions.core import policy, wire
from ohsessions.core.errors import ProcessGone, Unavailable, WireError
from ohsessions.core.states import State, Trigger
from ohsessions.database import as_stored, database_now
from ohsessions.lifecycle import quotas
from ohsessions.lifecycle.links import use_link
from ohsessions.lifecycle.locked import HEAVY, Change, Locked, lock_all, try_lock
from ohsessions.lifecycle.quotas import Person
from ohsessions.models import Connection, Process, Session

logger = logging.getLogger(__name__)

INIT_REPEAT = timedelta(minutes=10)
"""The time within which a repeated INIT with the same client_id returns the same session."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The fields of a connection's row that describe its arrival, and the user of the arrival.

    `user` is Django's, or an AnonymousUser. `login` identifies the user's login; it is checked again if it
    `is_doubted`. `browser` distinguishes anonymous users, and stays the same after a lost connection.
    """

    sid: str
    gateway: UUID
    user: Any
    transport: str = "websocket"
    address: str = ""
    user_agent: str = ""
    connected_at: datetime | None = None
    login: Login | None = None
    is_doubted: bool = False
    browser: str = ""


@dataclass(frozen=True, slots=True)
class Attached:
    """The outcome of an attach. `token` is the client's token, or a new one if the client sent none. If
    `issued_to` is not None, the token depends on that login, which is another user's."""

    change: Change
    role: Role
    token: str
    first_number: int
    token_version: int
    issued_to: Login | None = None
    left: Change | None = None
    """The change of the session that the connection was attached to before."""
    evicted: tuple[Change, ...] = ()
    """The changes of the sessions that must sleep for this one (see quotas)."""
    resets: bool = False
    """True if the client must start anew, at `first_number`: its cursor is not from this log."""


def _name(user: Any) -> str:
    return f"user {user.get_username()}" if user.is_authenticated else "anonymous user"


def open_session(arrival: Arrival, init: wire.Init) -> Attached:
    """Make a session, or find the one that the same INIT made, and attach the connection to it.

    Raises WireError 400 `unknown_runtime`, 401 `login_required`, 403 `role`, 429 `quota`.
    """
    _check_login(arrival)
    runtime = init.runtime or conf.DEFAULT_RUNTIME
    access.check_may_start(arrival.user, runtime, init.settings)
    if runtime not in conf.RUNTIMES:
        known = ", ".join(conf.RUNTIMES)
        raise WireError(400, "unknown_runtime", f"There is no runtime {runtime!r}. There are: {known}.")
    init = vault.apart(init, runtime)
    try:
        return _open(arrival, init, runtime)
    except (IntegrityError, _FellAsleep):  # made by the same INIT meanwhile, or asleep meanwhile
        return _open(arrival, init, runtime)


def _check_login(arrival: Arrival) -> None:
    if arrival.is_doubted:
        access.check_login(arrival.login)


@transaction.atomic
def _open(arrival: Arrival, init: wire.Init, runtime: str) -> Attached:
    user, now = arrival.user, database_now()
    key = _init_key(arrival, init.client_id)
    before = Session.objects.filter(init_key=key).defer(*HEAVY).first() if key else None
    if before is not None and before.created_at <= now - INIT_REPEAT:
        Session.objects.filter(pk=before.pk).update(init_key=None)
        before = None
    connection = _find_connection(arrival.sid)
    made = before.pk if before is not None else None
    left = connection.session_id if connection is not None else None
    person = Person(user.pk, quotas.visitor_of(user, arrival.address))
    wakes = before is None or _would_wake(before, now)
    victims = quotas.reserve(person, is_new=made is None) if wakes else []
    locks = lock_all({pk for pk in (made, left, *victims) if pk})
    evicted = quotas.evict(locks, victims, left, arrival.sid)
    if made is None:
        locked = Locked(_new_session(arrival, init, runtime, key, now), now)
        locked.move(Trigger.OPENED, "a new session", _name(user))
    elif made in locks:
        locked = locks.pop(made)
        if not wakes and _would_wake(locked.session, now):
            raise _FellAsleep
    else:
        raise access.unknown_session()
    grant = Grant(locked.session, Role.OWNER, None)
    return _attach(arrival, grant, init, locked, connection, locks, evicted)


def _new_session(arrival: Arrival, init: wire.Init, runtime: str, key: str | None, now: datetime) -> Session:
    session = Session(
        owner=arrival.user if arrival.user.is_authenticated else None,
        visitor=quotas.visitor_of(arrival.user, arrival.address),
        runtime=runtime,
        settings=init.settings,
        init_key=key,
        created_at=now,
        state_at=now,
        active_at=now,
    )
    vault.renew(session, init.secrets)
    return session


def _init_key(arrival: Arrival, client_id: str | None) -> str | None:
    """Return a digest of the client_id and its sender: another sender's client_id must not match."""
    if client_id is None:
        return None
    who = f"{arrival.user.pk}" if arrival.user.is_authenticated else f"browser\0{arrival.browser}"
    return hashlib.sha256(f"{who}\0{client_id}".encode()).hexdigest()


class _FellAsleep(Exception):
    """The session fell asleep before its row was locked; now its owner's quota must be locked first."""


def attach(arrival: Arrival, init: wire.Init, session_id: UUID | None = None) -> Attached:
    """Attach a connection to the session that its token names; without a token, to its user's `session_id`.

    A sleeping session becomes `starting`. So does a failed one if its retry time has come. A closed one stays
    closed, and can be read. The connection leaves the session that it was attached to before. If the sender
    may act, the INIT's secrets replace the session's secrets of the same names; a closed session keeps its
    own. The INIT's other settings count only when a session is made. Raises the errors of authorize(), 401
    `login_required`, or 429 `quota`, and changes nothing then.
    """
    # Before any lock, since a large INIT takes long. For all runtimes: the session is not read yet.
    init = vault.apart(init, *conf.RUNTIMES)
    try:
        return _join(arrival, init, session_id)
    except _FellAsleep:
        return _join(arrival, init, session_id, wakes=True)


@transaction.atomic
def _join(arrival: Arrival, init: wire.Init, session_id: UUID | None, *, wakes: bool = False) -> Attached:
    """Attach in one transaction. `wakes`: reserve quota even for a session that seems to be awake."""
    _check_login(arrival)
    grant = access.authorize(arrival.user, init.token, session_id)
    wanted = grant.session.pk
    connection = _find_connection(arrival.sid)
    left = connection.session_id if connection is not None else None
    person = Person(grant.session.owner_id, grant.session.visitor)
    wakes = wakes or _would_wake(grant.session)
    victims = quotas.reserve(person, is_new=False) if wakes else []
    locks = lock_all({pk for pk in (wanted, left, *victims) if pk})
    locked = locks.pop(wanted, None)
    if locked is None:
        raise access.invalid_token() if grant.token else access.unknown_session()
    if grant.token is not None and locked.session.token_version != grant.session.token_version:
        raise access.invalid_token()
    if grant.link is not None and not use_link(grant.link, locked):
        raise access.invalid_token()
    if not wakes and person.most_awake is not None and _would_wake(locked.session, locked.now):
        raise _FellAsleep
    evicted = quotas.evict(locks, victims, left, arrival.sid)
    return _attach(arrival, grant, init, locked, connection, locks, evicted)


def _find_connection(sid: str) -> Connection | None:
    """Return the row of a arrival that was attached before. Only the row names the session for certain: the
    gateway may not know it, if the answer to an attach was lost."""
    return Connection.objects.filter(sid=sid).only("sid", "session", "ended_at").first()


def _attach(
    arrival: Arrival,
    grant: Grant,
    init: wire.Init,
    locked: Locked,
    before: Connection | None,
    locks: dict[UUID, Locked],
    evicted: list[Locked],
) -> Attached:
    """Store an attach.

    `before`: the row that the arrival has already. `locks`: the other session that this row names. `evicted`:
    sessions that must sleep, perhaps the other session among them.
    """
    if not Process.objects.filter(pk=arrival.gateway).exclude(state=Process.State.GONE).exists():
        raise ProcessGone
    role = Role.VIEWER if init.as_viewer else grant.role
    if role.may_act and locked.session.state != State.CLOSED:
        vault.renew(locked.session, init.secrets)
    _wake_for_attach(locked, _name(arrival.user))
    change = locked.save()
    _save_connection(arrival, locked, role, grant, before)
    left = None
    for old in locks.values():
        old.set_due(old.attached())
        left = old.save()
    token = grant.token or access.issue_token(locked.session, grant.role, arrival.login)
    first, version = locked.session.first_number, locked.session.token_version
    resets = _is_foreign(init, locked.session)
    slept = tuple(victim.save() for victim in evicted)
    return Attached(change, role, token, first, version, grant.issued_to, left, slept, resets)


def _is_foreign(init: wire.Init, session: Session) -> bool:
    """Return whether the client's cursor is not from this log: trimmed, not there yet, or from the log before
    the database was restored. The last case is detected only for clients that send the timestamp of their
    last event. For other clients no event is read."""
    if init.cursor > session.head or init.cursor + 1 < session.first_number:
        return True
    if init.cursor < session.first_number or init.cursor_timestamp is None:
        return False
    return not journal.has_event(session.pk, init.cursor, init.cursor_timestamp)


def _save_connection(
    arrival: Arrival, locked: Locked, role: Role, grant: Grant, before: Connection | None
) -> None:
    values: dict[str, Any] = {
        "session_id": locked.session.pk,
        "user_id": arrival.user.pk,
        "gateway_id": arrival.gateway,
        "transport": arrival.transport,
        "address": arrival.address[:64],
        "user_agent": arrival.user_agent[:300],
        "role": role,
        "token_version": locked.session.token_version,
        "link": grant.link,
        "connected_at": as_stored(arrival.connected_at) if arrival.connected_at else locked.now,
        "attached_at": locked.now,
        "ended_at": None,
        "end_reason": "",
    }
    if before is None:
        Connection.objects.create(sid=arrival.sid, **values)
        return
    unchanged = Connection.objects.filter(sid=arrival.sid, session=before.session_id)
    if not unchanged.update(**values):
        # The row was detached, or attached to another session, since it was read.
        logger.info(
            "Connection %s changed during its attach", arrival.sid[:8], extra={"verb": "attach_again"}
        )
        raise Unavailable


def _wake_for_attach(locked: Locked, by: str) -> None:
    if _would_wake(locked.session, locked.now):
        locked.move(Trigger.ATTACHED, "a client attached", by)
    locked.set_due(1)


def _would_wake(session: Session, now: datetime | None = None) -> bool:
    """Return whether an attach makes the session `starting`: at `now`, by default the present time."""
    if session.state == State.FAILED:
        return policy.may_retry(session.retry_at, now or database_now())
    return session.state == State.PASSIVATED


@transaction.atomic
def detach(sid: str, reason: str, *, leave: bool = False, sent_number: int | None = None) -> Change | None:
    """End a connection, or with `leave` only its attachment. Return None if there was nothing to detach.

    The end of the last attachment starts the session's CLOSE_DELAY.
    """
    session_id = Connection.objects.attached().filter(sid=sid).values_list("session", flat=True).first()
    if session_id is None:
        if not leave:
            _end_row_of_who_left(sid, reason)
        return None
    locked = try_lock(session_id)
    if locked is None:
        return None
    rows = Connection.objects.filter(sid=sid, session=session_id, ended_at=None)
    values: dict[str, Any] = {"session": None, "attached_at": None} if leave else {"ended_at": locked.now}
    if sent_number is not None:
        values["sent_number"] = sent_number
    if not rows.update(**values, end_reason=reason[:100]):
        return None
    locked.set_due(locked.attached())
    return locked.save()


def _end_row_of_who_left(sid: str, reason: str) -> None:
    """End the row of a connection that left its session. No session is concerned, so none is locked."""
    rows = Connection.objects.filter(sid=sid, session=None, ended_at=None)
    rows.update(ended_at=database_now(), end_reason=reason[:100])


@transaction.atomic
def write_off(
    session_id: UUID, gateway: UUID, reason: str, cursors: Mapping[str, int] | None = None
) -> Change | None:
    """End all connections of a gateway to a session. Return None if there were none.

    `cursors`: the number of the last event that was sent to each connection, by sid, as far as known.
    """
    locked = try_lock(session_id)
    if locked is None or not locked.end_connections(reason, gateway=gateway):
        return None
    for sid, cursor in (cursors or {}).items():
        Connection.objects.filter(sid=sid).update(sent_number=cursor)
    locked.set_due(locked.attached())
    return locked.save()
