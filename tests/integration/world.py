"""A gateway, a worker, an owner and a clock that stands still, for short tests of whole sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth import get_user_model
from django.db import connection, connections, transaction

from ohsessions import lifecycle, snapshots
from ohsessions.core import wire
from ohsessions.core.clock import FakeClock
from ohsessions.database import as_stored, database_clock
from ohsessions.journal import Append, Appended, NewEvent, commit_appends
from ohsessions.lifecycle import Arrival, Attached, Change
from ohsessions.models import Connection, Event, Process, Session
from ohsessions.processes import leases
from tests.requirements import wait_until


class StoredClock(FakeClock):
    """A clock that gives times as rows have them: without a zone where USE_TZ is off."""

    def now(self) -> datetime:
        return as_stored(super().now())


class World:
    """All functions of lifecycle and journal, with defaults for the parameters that seldom matter."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.user = get_user_model().objects.create_user(f"owner-{uuid4().hex}")
        self.gateway = leases.register(Process.Kind.GATEWAY)
        self.worker = leases.register(Process.Kind.WORKER)

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[World]:
        clock = StoredClock()
        with database_clock(clock):
            yield cls(clock)

    # Clients

    def socket(self, sid: str = "", **fields: Any) -> Arrival:
        return Arrival(sid=sid or uuid4().hex, gateway=self.gateway, user=self.user, **fields)

    def open(self, sid: str = "", **payload: Any) -> Attached:
        return lifecycle.open_session(self.socket(sid), init(**payload))

    def attach(self, session_id: UUID, sid: str = "", **payload: Any) -> Attached:
        return lifecycle.attach(self.socket(sid), init(**payload), session_id)

    def act(self, session_id: UUID, sid: str | None = None, **fields: Any) -> Appended | Exception:
        return append(Append(session_id, [action(**fields)], sid=sid))

    # A running session

    def claim(self, session_id: UUID) -> int:
        """Claim the session for the worker, and return the epoch."""
        won = lifecycle.claim(session_id, self.worker)
        assert won is not None
        return won[0].epoch

    def run(self, sid: str = "") -> tuple[UUID, int]:
        """Open and run a new session with one connection, and return its id and epoch."""
        session_id = self.open(sid).change.session_id
        epoch = self.claim(session_id)
        lifecycle.run(session_id, epoch)
        return session_id, epoch

    def sleep(self, session_id: UUID, epoch: int) -> Change:
        """Detach all connections and passivate the session."""
        for sid in sids(session_id):
            lifecycle.detach(sid, "gone")
        self.clock.advance(3600)
        change = lifecycle.claim_passivation(session_id, epoch, busy=False)
        assert change is not None
        return lifecycle.release(session_id, change.epoch, None)


def init(**payload: Any) -> wire.Init:
    request = wire.parse_request([{"action": "initialize", **payload}], max_bytes=10**6)
    assert isinstance(request, wire.Init)
    return request


def action(text: str = "hi", **fields: Any) -> NewEvent:
    body = wire.encode({"source": "user", "message": "", "action": "message", "args": {"content": text}})
    return NewEvent(**{"source": "user", "kind": "message", "body": body, "waits": True} | fields)


def observation(text: str, key: str) -> NewEvent:
    return NewEvent("agent", "echo", wire.event_body(observation="echo", content=text), write_key=key)


def append(one: Append) -> Any:
    """Append, and return the result, or the error that refused it (not raised)."""
    return commit_appends([one])[0]


def session(session_id: UUID) -> Session:
    return Session.objects.get(pk=session_id)


def snapshot(session_id: UUID) -> Any:
    """Return the value of the snapshot that the session's row names."""
    return snapshots.load(snapshots.named_by(session(session_id)))


def sids(session_id: UUID) -> list[str]:
    return list(Connection.objects.attached().filter(session=session_id).values_list("sid", flat=True))


def log(session_id: UUID) -> list[tuple[int, str]]:
    """Return number and kind of each event."""
    return list(Event.objects.filter(session=session_id).order_by("number").values_list("number", "kind"))


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Run a function in a thread with its own connection, and return a function that waits for its result."""
    future: Future[Any] = Future()

    def job() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=job, daemon=True)
    thread.start()

    def finished() -> Any:
        thread.join(20)
        return future.result(0)

    return finished


def wait_for_lock_waiters(count: int = 1) -> None:
    """Wait until `count` connections of this PostgreSQL wait for a lock. Works inside a transaction."""

    def waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return bool(cursor.fetchone()[0] >= count)

    wait_until(waiting, f"{count} connections waiting for a lock")


@contextmanager
def row_locked(session_id: UUID) -> Iterator[None]:
    """Lock the row of a session in another connection."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Session.objects.select_for_update().get(pk=session_id)
            held.set()
            release.wait(20)

    finished = in_thread(hold)
    assert held.wait(20)
    try:
        yield
    finally:
        release.set()
        finished()
