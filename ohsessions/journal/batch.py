"""Store appends of many sessions in one transaction.

The transaction locks the sessions' rows in order of id. Then, in new statements, it checks each append: a
runtime's append needs the session's present epoch, a client's append needs an attached connection. A write
key that exists already means that this write was done and its answer was lost. The event then keeps its
number and is not stored again. An append that is refused, here or by the database, fails alone. If another
transaction has locked a session's row, all appends to that session are left for the next batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from uuid import UUID

from django.db import DataError, IntegrityError, InterfaceError, OperationalError, transaction

from ohsessions import access, snapshots
from ohsessions.core import policy
from ohsessions.core.errors import StaleEpoch, StaleSecrets, WireError
from ohsessions.core.faults import public_reason
from ohsessions.core.states import State
from ohsessions.database import LATER, Later, database_now, means_lost_connection
from ohsessions.journal.appends import Append, Appended, NewEvent
from ohsessions.journal.rows import MARKS, WriteKey, check_same, find_rows, new_row, save_marks
from ohsessions.models import Connection, Event, Session

logger = logging.getLogger(__name__)

MAX_EVENTS = 2000
MAX_CHARACTERS = 8 * 1024 * 1024
"""The limits of one transaction. A single append may exceed them."""

READ = (*MARKS, "active_at", "state", "reason", "epoch", "worker_id", "snapshot_file", "secrets_version")

Result = Appended | Exception | Later


@dataclass(slots=True)
class _Behind:
    """Sessions and runtimes whose later appends in this batch must wait or fail, as an earlier one did."""

    locked: set[UUID] = field(default_factory=set)
    """Sessions that are left for the next batch."""
    failed: set[tuple[UUID, int]] = field(default_factory=set)
    """Runtimes with an append that could not be stored, by session and epoch."""


def commit_appends(appends: list[Append]) -> list[Result]:
    """Store many appends in one transaction; return for each its result or the error that refused it.

    Return LATER for appends to a session whose row is locked, and for appends beyond the limits.
    """
    count = _fitting(appends)
    return _commit(appends[:count], _Behind()) + [LATER] * (len(appends) - count)


def _fitting(appends: list[Append]) -> int:
    events = characters = 0
    for count, append in enumerate(appends):
        events += len(append.events)
        characters += append.characters
        if count and (events > MAX_EVENTS or characters > MAX_CHARACTERS):
            return count
    return len(appends)


def _commit(appends: list[Append], behind: _Behind) -> list[Result]:
    """Store appends in one transaction. After an error of the data, store each half in its own transaction,
    until the append that causes the error fails alone."""
    try:
        with transaction.atomic():
            return Batch(appends, behind).write()
    except (OperationalError, InterfaceError):
        raise  # an error of the database, not of the data
    except Exception as error:
        if means_lost_connection(error):
            raise
        if len(appends) == 1:
            return [_refused(appends[0], error, behind)]
    half = len(appends) // 2
    return _commit(appends[:half], behind) + _commit(appends[half:], behind)


def _refused(append: Append, error: Exception, behind: _Behind) -> Exception:
    if append.epoch is not None:
        behind.failed.add((append.session_id, append.epoch))
    if isinstance(error, DataError | IntegrityError | ValueError):
        return WireError(
            400, "not_json", f"The database cannot store this ({type(error).__name__}). Send other content."
        )
    return error


class Batch:
    """One transaction of commit_appends()."""

    def __init__(self, appends: list[Append], behind: _Behind) -> None:
        self._appends = appends
        self._behind = behind
        self._sessions: dict[UUID, Session] = {}
        self._changed: set[UUID] = set()
        self._done: set[tuple[UUID, int]] = set()
        self._attached: dict[str, UUID | None] = {}
        self._known: dict[WriteKey, Event] = {}
        self._rows: list[Event] = []

    def write(self) -> list[Result]:
        self._lock()
        self._now = database_now()
        self._look_up()
        results = [self._try(append) for append in self._appends]
        Event.objects.bulk_create(self._rows)
        self._forget_hidden()
        save_marks([self._sessions[session_id] for session_id in self._changed])
        return results

    def _lock(self) -> None:
        ids = {append.session_id for append in self._appends} - self._behind.locked
        rows = Session.objects.select_for_update(skip_locked=True).filter(pk__in=ids).order_by("pk")
        self._sessions = {session.pk: session for session in rows.only(*READ)}
        if missing := ids - self._sessions.keys():
            locked = Session.objects.filter(pk__in=missing).values_list("pk", flat=True)
            self._behind.locked.update(locked)

    def _look_up(self) -> None:
        sids = {append.sid for append in self._appends if append.sid}
        if sids:
            rows = Connection.objects.attached().filter(sid__in=sids)
            self._attached = dict(rows.values_list("sid", "session_id"))
        keys = {
            (append.session_id, event.write_key)
            for append in self._appends
            if append.session_id in self._sessions
            for event in append.events
        }
        self._known = find_rows(keys)

    def _try(self, append: Append) -> Result:
        if append.session_id in self._behind.locked:
            return LATER
        if append.epoch is not None and (append.session_id, append.epoch) in self._behind.failed:
            return WireError(500, "internal", "An earlier event of this runtime was not stored.")
        try:
            return self._append(append)
        except (StaleEpoch, StaleSecrets, WireError) as error:
            return error

    def _append(self, append: Append) -> Appended:
        session = self._sessions.get(append.session_id)
        if append.epoch is not None:
            if session is None or policy.is_stale(session, append.epoch):
                logger.info("Session %s has another owner", append.session_id, extra={"verb": "stale"})
                raise StaleEpoch
            if append.started is not None and session.state != State.RUNNING:
                raise StaleEpoch
        elif session is None:
            raise access.unknown_session()
        elif append.sid is not None and self._attached.get(append.sid) != session.pk:
            raise WireError(
                409, "not_attached", "This connection is not attached to a session. Send INIT first."
            )
        if append.secrets_version not in (None, session.secrets_version):
            raise StaleSecrets(session.secrets_version)
        keys = [(session.pk, event.write_key) for event in append.events]
        for event, key in zip(append.events, keys, strict=True):
            if before := self._known.get(key):
                check_same(event, before)
        # Events that are stored already were allowed when they were stored.
        if append.epoch is None and not all(key in self._known for key in keys):
            _check_takes_actions(session)
        rows = [
            self._known.get(key) or self._store(session, event, key)
            for event, key in zip(append.events, keys, strict=True)
        ]
        self._mark(session, append)
        stored = [(row.number, row.data) for row in rows]
        numbers = [row.number for row in rows]
        return Appended(numbers, stored, session.state, session.worker_id, session.epoch)

    def _store(self, session: Session, event: NewEvent, key: WriteKey) -> Event:
        row = self._known[key] = new_row(session, event, self._now)
        self._rows.append(row)
        self._changed.add(session.pk)
        return row

    def _mark(self, session: Session, append: Append) -> None:
        """Move the marks. A repetition, after a COMMIT whose answer was lost, changes nothing."""
        epoch = append.epoch
        if epoch is None:
            return
        if append.started is not None:
            again = session.started_number == append.started
            if not again or session.started_epoch != epoch:
                session.attempts = session.attempts + 1 if again else 1
            session.started_number, session.started_epoch = append.started, epoch
        if append.handled is not None:
            session.handled_number = max(session.handled_number, append.handled)
        if append.interrupted is not None:
            session.interrupted_number = max(session.interrupted_number, append.interrupted)
        if append.checkpoint is not None:
            snapshots.replace(session, append.checkpoint)
            session.save(update_fields=["snapshot", "snapshot_file"])
        done = (append.handled, append.interrupted)
        self._done.update((session.pk, number) for number in done if number is not None)
        self._changed.add(session.pk)

    def _forget_hidden(self) -> None:
        """Delete the hidden arguments of actions and interrupts that this batch marks as handled."""
        if not self._done:
            return
        kept = Event.objects.filter(session__in={pk for pk, _ in self._done}, hidden_text__isnull=False)
        ids = [pk for pk, *key in kept.values_list("pk", "session", "number") if tuple(key) in self._done]
        if ids:
            Event.objects.filter(pk__in=ids).update(hidden_text=None)


def _check_takes_actions(session: Session) -> None:
    if session.state == State.CLOSED:
        raise WireError(
            409, "session_closed", "This session was closed, and can only be read. Start a new one to go on."
        )
    if session.state == State.FAILED:
        why = public_reason(session.reason)
        message = f"This session takes no actions until it has started again. It failed: {why}"
        raise WireError(409, "session_failed", message)
