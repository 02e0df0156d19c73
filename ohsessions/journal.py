"""The event log: append, read. The only code that gives events their numbers.

Appends of many sessions share a transaction (`commit_appends`). It locks the sessions' rows in order of id,
then, in new statements, looks at what it may do for each append: a runtime's needs the session's present
epoch, a client's an attached connection. A write key that is there already means that this very write has
been done (its answer was lost): it gets the same numbers and is not stored again. One append that is refused,
or that the database refuses, fails alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import DataError, IntegrityError, transaction

from ohsessions import access, snapshots
from ohsessions.core import wire
from ohsessions.core.errors import StaleEpoch, WireError
from ohsessions.core.runtime import Action
from ohsessions.core.states import State
from ohsessions.database import database_now
from ohsessions.models import Connection, Event, Session
from ohsessions.snapshots import Snapshot

PAGE_EVENTS = 300
PAGE_CHARACTERS = 256 * 1024


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event without a number. `body` is its encoded JSON without id and timestamp (see core.wire)."""

    source: str
    kind: str
    body: str
    write_key: str = field(default_factory=lambda: f"g:{uuid.uuid4().hex}")
    hidden: str | None = None
    """The encoded arguments that only the runtime may see."""
    waits: bool = False
    """Whether it is an action that the runtime handles in its turn (an interrupt is not)."""


@dataclass(frozen=True, slots=True)
class Append:
    """What one writer wants to have stored, all or nothing.

    A client gives the `sid` of its connection. A runtime gives its `epoch`, and may move the session's marks.
    """

    session_id: UUID
    events: Sequence[NewEvent] = ()
    sid: str | None = None
    epoch: int | None = None
    started: int | None = None
    handled: int | None = None
    interrupted: int | None = None
    checkpoint: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an Append: its events' numbers, and those newly stored as (number, data)."""

    numbers: list[int]
    stored: list[tuple[int, str]]
    state: str
    worker: UUID | None
    epoch: int


@dataclass(slots=True)
class _Later:
    """The session's row was locked by somebody else: to be tried with the next batch."""


def commit_appends(appends: list[Append]) -> list[Appended | Exception]:
    """Stores many appends in one transaction; gives for each its result or the error that refused it."""
    try:
        return _Batch(appends).commit()
    except (DataError, IntegrityError) as error:
        if len(appends) == 1:
            return [WireError(400, "not_json", f"The database refused it: {type(error).__name__}.")]
    return _commit_one_by_one(appends)


def _commit_one_by_one(appends: list[Append]) -> list[Appended | Exception]:
    """After an error of the data: who caused it fails, what its runtime wrote after it too, nobody else."""
    results: list[Appended | Exception] = []
    broken: set[tuple[UUID, int]] = set()
    for append in appends:
        stream = (append.session_id, append.epoch) if append.epoch is not None else None
        if stream in broken:
            results.append(WireError(500, "internal", "An earlier event of this runtime was not stored."))
            continue
        result = commit_appends([append])[0]
        if stream and isinstance(result, Exception):
            broken.add(stream)
        results.append(result)
    return results


class _Batch:
    """One transaction of commit_appends()."""

    def __init__(self, appends: list[Append]) -> None:
        self.appends = appends
        self.discarded: list[str] = []

    def commit(self) -> list[Appended | Exception]:
        with transaction.atomic():
            ids = {append.session_id for append in self.appends}
            locked = Session.objects.select_for_update().filter(pk__in=ids).order_by("pk")
            self.sessions = {session.pk: session for session in locked.defer("snapshot", "secrets")}
            self.now = database_now()
            self._look_up()
            self.rows: list[Event] = []
            results = [self._try(append) for append in self.appends]
            Event.objects.bulk_create(self.rows)
            for session in self.sessions.values():
                self._save(session)
        for file in self.discarded:
            snapshots.discard(file)
        return results

    def _look_up(self) -> None:
        sids = {append.sid for append in self.appends if append.sid}
        self.attached: dict[str, UUID | None] = {}
        if sids:
            rows = Connection.objects.filter(sid__in=sids, ended_at=None)
            self.attached = dict(rows.values_list("sid", "session_id"))
        keys = {event.write_key for append in self.appends for event in append.events}
        self.known: dict[tuple[UUID, str], Event] = {}
        if keys:
            found = Event.objects.filter(session_id__in=self.sessions, write_key__in=keys)
            self.known = {(event.session_id, event.write_key): event for event in found}

    def _try(self, append: Append) -> Appended | Exception:
        try:
            return self._append(append)
        except (StaleEpoch, WireError) as error:
            return error

    def _append(self, append: Append) -> Appended:
        session = self.sessions.get(append.session_id)
        if session is None:
            raise access.unknown_session()
        if append.epoch is not None:
            self._check_owner(session, append)
        else:
            self._check_client(session, append)
        repeated = [self.known.get((session.pk, event.write_key)) for event in append.events]
        for event, before in zip(append.events, repeated, strict=True):
            if before is not None:
                _check_same(event, before)
        numbers, stored = [], []
        for event, before in zip(append.events, repeated, strict=True):
            row = before or self._store(session, event)
            numbers.append(row.number)
            if before is None:
                stored.append((row.number, row.data))
        self._mark(session, append)
        return Appended(numbers, stored, session.state, session.worker_id, session.epoch)

    @staticmethod
    def _check_owner(session: Session, append: Append) -> None:
        if session.epoch != append.epoch:
            raise StaleEpoch
        if append.started is not None and session.state != State.RUNNING:
            raise StaleEpoch

    def _check_client(self, session: Session, append: Append) -> None:
        if append.sid is not None and self.attached.get(append.sid) != session.pk:
            raise WireError(409, "not_attached", "This connection is not attached to a session: send INIT.")
        if session.state == State.CLOSED:
            raise WireError(409, "session_closed", "This session was closed; it can only be read.")
        if session.state == State.FAILED:
            message = f"This session failed and cannot take actions: {session.reason}"
            raise WireError(409, "session_failed", message)

    def _store(self, session: Session, event: NewEvent) -> Event:
        row = new_row(session, event, self.now)
        self.rows.append(row)
        self.known[session.pk, event.write_key] = row
        return row

    def _mark(self, session: Session, append: Append) -> None:
        if append.started is not None:
            again = session.started_number == append.started
            session.attempts = session.attempts + 1 if again else 1
            session.started_number = append.started
        if append.handled is not None:
            session.handled_number = max(session.handled_number, append.handled)
            Event.objects.filter(session=session, number=append.handled, hidden_text__isnull=False).update(
                hidden_text=None
            )
        if append.interrupted is not None:
            session.interrupted_number = max(session.interrupted_number, append.interrupted)
        if append.checkpoint is not None:
            self.discarded.append(session.snapshot_file)
            session.snapshot_file = append.checkpoint.file
            session.snapshot = append.checkpoint.value

    def _save(self, session: Session) -> None:
        fields = [
            "next_number",
            "last_action_number",
            "last_user_number",
            "started_number",
            "handled_number",
            "interrupted_number",
            "attempts",
            "active_at",
        ]
        if "snapshot" not in session.get_deferred_fields():
            fields += ["snapshot", "snapshot_file"]
        session.save(update_fields=fields)


def new_row(session: Session, event: NewEvent, now: datetime) -> Event:
    """The row of an event, with the next number of its session, which is raised. The row must be locked."""
    number = session.next_number
    session.next_number += 1
    session.active_at = now
    if event.source == "user":
        session.last_user_number = number
    if event.waits:
        session.last_action_number = number
    return Event(
        session=session,
        number=number,
        source=event.source,
        kind=event.kind[:64],
        data=wire.stamp(event.body, number, now),
        write_key=event.write_key,
        hidden_text=None if event.hidden is None else access.encrypt(event.hidden),
        created_at=now,
    )


def _check_same(event: NewEvent, before: Event) -> None:
    same = wire.unstamp(before.data) == event.body
    if same and event.hidden is not None and before.hidden_text is not None:
        same = access.decrypt(before.hidden_text) == event.hidden
    if not same:
        message = "This client_id was used for another action; use a new one for each."
        raise WireError(400, "client_id_reused", message)


def read_page(session_id: UUID, after: int) -> list[tuple[int, str]]:
    """The next events after a number, in order, as (number, data): a page at most, empty at the head.

    A page ends after PAGE_EVENTS events, or with the event that exceeds PAGE_CHARACTERS.
    """
    rows = Event.objects.filter(session_id=session_id, number__gt=after).order_by("number")
    page: list[tuple[int, str]] = []
    size = 0
    for number, data in rows.values_list("number", "data")[:PAGE_EVENTS].iterator(chunk_size=50):
        page.append((number, data))
        size += len(data)
        if size >= PAGE_CHARACTERS:
            break
    return page


def new_actions(session_id: UUID, after: int) -> list[tuple[int, str]]:
    """The actions of clients after a number, in order, as (number, type)."""
    rows = Event.objects.filter(session_id=session_id, number__gt=after, source="user").order_by("number")
    return list(rows.values_list("number", "kind"))


def read_action(session_id: UUID, number: int) -> Action:
    """One action of a client, with its real arguments."""
    row = Event.objects.get(session_id=session_id, number=number)
    args = json.loads(row.data)["args"]
    hidden = args.get("hidden") is True
    if row.hidden_text is not None:
        args = json.loads(access.decrypt(row.hidden_text))
    return Action(row.number, row.kind, args, hidden)


@dataclass(frozen=True, slots=True)
class Head:
    """What a gateway has to know of a session to notice that it missed something."""

    number: int
    state: str
    reason: str
    title: str
    worker: UUID | None
    state_at: datetime


def heads(session_ids: Iterable[UUID]) -> dict[UUID, Head]:
    """The heads of many sessions, in one query; sessions that are no more are left out."""
    rows = Session.objects.filter(pk__in=list(session_ids))
    found = rows.values_list("pk", "next_number", "state", "reason", "title", "worker", "state_at")
    return {row[0]: Head(row[1] - 1, *row[2:]) for row in found}
