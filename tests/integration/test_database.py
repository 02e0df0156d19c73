"""The threads between the event loop and the database: order, gathering, waiting, lost connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, ProgrammingError, connection, transaction
from django.db import connections as connections_module

from ohsessions import lifecycle
from ohsessions.core import wire
from ohsessions.core.errors import OhSessionsError, RowLocked, Unavailable
from ohsessions.database import (
    LATER,
    Database,
    as_aware,
    as_stored,
    attempts,
    causes,
    database_now,
    lanes,
    now,
    storage,
)
from ohsessions.database import database as database_module
from ohsessions.journal import Append, batch, commit_appends
from ohsessions.models import Process
from ohsessions.processes import leases
from tests.integration.world import (
    World,
    action,
    in_thread,
    log,
    row_locked,
    sids,
    wait_for_lock_waiters,
)

LIMIT = 20.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def made(database: str) -> AsyncIterator[Database]:
    made = Database()
    yield made
    await made.close()


@asynccontextmanager
async def busy(made: Database) -> AsyncIterator[None]:
    """Keep the writer busy, so that queued values gather."""
    begun, release = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        release.wait(LIMIT)

    task = asyncio.create_task(made.write_urgently(block))
    assert await asyncio.to_thread(begun.wait, LIMIT)
    try:
        yield
    finally:
        release.set()
        await task


async def gathered(made: Database, commit: Callable[..., Any], values: list[Any]) -> list[Any]:
    """Queue all values while the writer is busy, and return their results or errors."""
    async with busy(made):
        tasks = [asyncio.create_task(made.write_gathered(commit, value)) for value in values]
        await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_gathers_while_the_writer_is_busy_is_one_batch_in_order(made: Database):
    batches = []

    def commit(values: list[int]) -> list[int]:
        batches.append(values)
        return [value * 2 for value in values]

    assert await gathered(made, commit, [*range(10)]) == [*range(0, 20, 2)]
    assert batches == [[*range(10)]]


async def test_a_batch_has_so_many_values_at_most(made: Database, monkeypatch):
    monkeypatch.setattr(lanes, "MAX_BATCH", 2)
    batches = []

    def commit(values: list[int]) -> list[int]:
        batches.append(values)
        return values

    await gathered(made, commit, [*range(5)])
    assert batches == [[0, 1], [2, 3], [4]]


async def test_each_value_gets_its_own_result_or_error(made: Database):
    def commit(values: list[int]) -> list[Any]:
        return [ValueError(value) if value % 2 else value for value in values]

    results = await gathered(made, commit, [0, 1, 2, 3])
    assert [str(result) for result in results] == ["0", "1", "2", "3"]
    assert isinstance(results[1], ValueError)


async def test_a_lost_connection_is_repeated_once_with_the_same_values(made: Database, database: str):
    tries: list[list[int]] = []

    def commit(values: list[int]) -> list[int]:
        tries.append(values)
        if len(tries) == 1:
            raise OperationalError("server closed the connection unexpectedly")
        return values

    results = await gathered(made, commit, [1, 2])
    if database == "postgresql":
        assert results == [1, 2]
        assert tries == [[1, 2], [1, 2]]
    else:
        assert [type(result) for result in results] == [Unavailable] * 2, "a lock that was waited for in vain"


async def test_a_transaction_that_may_have_been_committed_is_not_repeated(made: Database):
    tries = []

    def lose() -> None:
        tries.append(None)
        raise OperationalError("server closed the connection unexpectedly")

    for method in (made.write, made.write_urgently):
        with pytest.raises(Unavailable):
            await method(lose)
    assert len(tries) == 2


async def test_each_who_waits_gets_an_unavailable_of_its_own(made: Database):
    """Each waiting task raises its own error, because the gateway writes a client_id into it."""

    def commit(values: list[int]) -> list[int]:
        raise OperationalError

    first, second = await gathered(made, commit, [1, 2])
    assert isinstance(first, Unavailable)
    assert isinstance(second, Unavailable)
    assert first is not second


async def test_other_errors_are_not_taken_for_an_outage(made: Database):
    def fail(*_: Any) -> None:
        raise IntegrityError("no")

    with pytest.raises(IntegrityError):
        await made.write(fail)
    assert [type(result) for result in await gathered(made, fail, [1, 2])] == [IntegrityError] * 2
    assert await made.read(lambda: 1) == 1, "and the threads live on"


async def test_what_cannot_be_written_yet_stays_first_in_line(made: Database):
    seen, locked = [], {"a"}

    def commit(values: list[tuple[str, int]]) -> list[Any]:
        seen.append([value for value in values if value[0] not in locked])
        results = [LATER if value[0] in locked else value for value in values]
        locked.clear()
        return results

    values = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    assert await gathered(made, commit, values) == values
    assert seen == [[("b", 1), ("b", 2)], [("a", 1), ("a", 2), ("a", 3)]]


async def test_what_cannot_be_written_yet_is_not_overtaken_by_what_comes_later(made: Database):
    batches: list[list[int]] = []
    begun, release = threading.Event(), threading.Event()

    def commit(values: list[int]) -> list[Any]:
        batches.append(values)
        begun.set()
        assert release.wait(LIMIT)
        return [LATER] if len(batches) == 1 else values

    tasks = [asyncio.create_task(made.write_gathered(commit, 1))]
    assert await asyncio.to_thread(begun.wait, LIMIT)
    tasks.append(asyncio.create_task(made.write_gathered(commit, 2)))
    await asyncio.sleep(0)
    release.set()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*tasks)
    assert batches == [[1], [1, 2]]


async def test_what_stays_locked_is_given_up_and_does_not_stop_others(made: Database, monkeypatch):
    monkeypatch.setattr(lanes, "LOCK_PATIENCE", 0.3)

    def commit(values: list[str]) -> list[Any]:
        return [LATER if value == "locked" else value for value in values]

    waiting = asyncio.create_task(made.write_gathered(commit, "locked"))
    assert await made.write_gathered(commit, "free") == "free"
    assert await made.write(lambda: 1) == 1
    assert not waiting.done()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(LIMIT):
            await waiting


async def test_what_stays_locked_is_not_tried_again_without_a_pause(made: Database, monkeypatch):
    monkeypatch.setattr(lanes, "LOCK_PATIENCE", 0.3)
    monkeypatch.setattr(lanes, "LOCK_POLL", 0.1)
    tries = []

    def commit(values: list[str]) -> list[Any]:
        tries.append(values)
        return [LATER]

    with pytest.raises(Unavailable):
        await made.write_gathered(commit, "locked")
    assert 2 <= len(tries) <= 4


async def test_values_of_different_commits_are_not_mixed(made: Database):
    batches: list[list[str]] = []

    def one(values: list[str]) -> list[str]:
        batches.append(["one", *values])
        return values

    def other(values: list[str]) -> list[str]:
        batches.append(["other", *values])
        return values

    async with busy(made):
        writes = [(one, "a"), (one, "b"), (other, "c"), (one, "d")]
        tasks = [asyncio.create_task(made.write_gathered(commit, value)) for commit, value in writes]
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == ["a", "b", "c", "d"]
    assert batches == [["one", "a", "b"], ["other", "c"], ["one", "d"]]


async def test_heartbeats_overtake_everything_that_waits(made: Database):
    order = []

    def commit(values: list[str]) -> list[None]:
        order.append("batch")
        return [None for _ in values]

    async with busy(made):
        batch = asyncio.create_task(made.write_gathered(commit, "x"))
        await asyncio.sleep(0)
        urgent = asyncio.create_task(made.write_urgently(lambda: order.append("urgent")))
        await asyncio.sleep(0)
    await asyncio.gather(batch, urgent)
    assert order == ["urgent", "batch"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_with_one_writer_heartbeats_come_first_and_neither_kind_of_write_starves_the_other(
    made: Database,
):
    order: list[str] = []

    def commit(values: list[str]) -> list[None]:
        order.extend(values)
        return [None for _ in values]

    async with busy(made):
        tasks = [asyncio.create_task(made.write(order.append, name)) for name in ("first", "second")]
        tasks.append(asyncio.create_task(made.write_gathered(commit, "batch")))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(made.write_urgently(order.append, "urgent")))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["urgent", "batch", "first", "second"]


async def test_a_transaction_that_has_begun_ends_although_its_task_was_cancelled(
    world: World, made: Database
):
    session_id = (await made.write(world.open)).change.session_id
    async with busy(made):
        task = asyncio.create_task(made.write_gathered(commit_appends, Append(session_id, [action()])))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await made.write_urgently(lambda: None)
    await gathered(made, commit_appends, [Append(session_id, [action()])])
    assert await made.read(log, session_id) == [(0, "message"), (1, "message")]


async def test_closing_finishes_what_is_in_line_and_takes_nothing_more(database: str):
    made = Database()
    before = threading.active_count()
    done = [asyncio.create_task(made.write(lambda n=n: n)) for n in range(5)]
    await asyncio.sleep(0)
    await made.close()
    assert await asyncio.gather(*done) == [*range(5)]
    assert threading.active_count() < before
    with pytest.raises(OhSessionsError, match="were stopped"):
        await made.read(lambda: 1)


def backend_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def terminate(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def demote() -> None:
    """Make the connection read-only, as it is when a failover has made its server a replica."""
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
class TestPostgres:
    async def test_an_append_survives_the_end_of_its_connection(self, world: World, made: Database):
        session_id = (await made.write(world.open)).change.session_id
        pid = await made.write_urgently(backend_pid)
        await asyncio.to_thread(in_own_connection, terminate, pid)
        result = await made.write_gathered(commit_appends, Append(session_id, [action()]))
        assert result.numbers == [0]

    async def test_an_append_whose_commit_was_not_heard_of_is_stored_once(self, world: World, made: Database):
        session_id = (await made.write(world.open)).change.session_id
        commits = []

        def commit(appends: list[Append]) -> Any:
            results = commit_appends(appends)
            commits.append(results)
            if len(commits) == 1:
                terminate_own_connection()
            return results

        (result,) = await gathered(made, commit, [Append(session_id, [action()])])
        assert len(commits) == 2
        assert result.numbers == [0]
        assert [number for number, _ in result.stored] == [0], "so that all are told of it"
        assert await made.read(log, session_id) == [(0, "message")]

    async def test_a_read_survives_the_end_of_its_connection(self, made: Database):
        for pid in {await made.read(backend_pid) for _ in range(20)}:
            await asyncio.to_thread(in_own_connection, terminate, pid)
        assert await asyncio.gather(*(made.read(lambda: backend_pid() > 0) for _ in range(8))) == [True] * 8

    async def test_a_connection_to_a_server_that_was_demoted_is_given_up(
        self, world: World, made: Database, caplog: pytest.LogCaptureFixture
    ):
        """The connection works, but it only reads: a heartbeat sent over it would fail for ever."""
        caplog.set_level("INFO", attempts.logger.name)
        await made.write_urgently(demote)
        caplog.clear()
        with pytest.raises(Unavailable):
            await made.write_urgently(leases.renew, world.worker, 1)
        await made.write_urgently(leases.renew, world.worker, 1)
        assert [record.verb for record in caplog.records] == ["db_lost", "db_back"]

    async def test_who_only_reads_leaves_a_server_that_was_demoted_as_well(
        self, world: World, made: Database
    ):
        """No read fails on such a server, but its data may be a day old."""
        before = {await made.read(backend_pid) for _ in range(20)}
        await made.write_urgently(demote)
        with pytest.raises(Unavailable):
            await made.write_urgently(leases.renew, world.worker, 1)
        assert before.isdisjoint({await made.read(backend_pid) for _ in range(20)})

    async def test_an_append_survives_the_demotion_of_its_server(self, world: World, made: Database):
        """The error is no fault of the event, and so must not refuse it."""
        session_id = (await made.write(world.open)).change.session_id
        await made.write_urgently(demote)
        result = await made.write_gathered(commit_appends, Append(session_id, [action()]))
        assert result.numbers == [0]

    async def test_a_connection_that_idled_is_tried_before_it_is_relied_on(self, made: Database, monkeypatch):
        monkeypatch.setattr(lanes, "MAX_IDLE", 0.0)
        for _ in range(database_module.LIFECYCLE_THREADS):
            pid = await made.write(backend_pid)
            await asyncio.to_thread(in_own_connection, terminate, pid)
        assert await made.write(backend_pid) > 0

    async def test_a_locked_session_holds_up_its_own_actions_only(self, world: World, made: Database):
        locked, free = [(await made.write(world.open)).change.session_id for _ in range(2)]
        with row_locked(locked):
            appends = [Append(pk, [action()]) for pk in (locked, free, locked)]
            waiting = [asyncio.create_task(made.write_gathered(commit_appends, one)) for one in appends]
            async with asyncio.timeout(LIMIT):
                assert (await waiting[1]).numbers == [0]
                await made.write_urgently(lambda: None)
            assert not waiting[0].done()
            assert not waiting[2].done()
        async with asyncio.timeout(LIMIT):
            assert [(await waiting[index]).numbers for index in (0, 2)] == [[0], [1]]

    async def test_a_lock_that_nobody_lets_go_of_makes_unavailable(
        self, world: World, made: Database, monkeypatch
    ):
        monkeypatch.setattr(lanes, "LOCK_PATIENCE", 0.3)
        session_id = (await made.write(world.open)).change.session_id
        with row_locked(session_id), pytest.raises(RowLocked):
            await made.write(lifecycle.close, session_id, by="me")
        assert (await made.write(lifecycle.close, session_id, by="me")).state == "closed"

    async def test_many_who_want_a_locked_session_keep_nobody_else_waiting(
        self, world: World, made: Database, monkeypatch
    ):
        monkeypatch.setattr(lanes, "LOCK_PATIENCE", 10 * LIMIT)
        locked, free = [(await made.write(world.open)).change.session_id for _ in range(2)]
        with row_locked(locked):
            waiting = [asyncio.create_task(made.write(world.attach, locked)) for _ in range(12)]
            await asyncio.to_thread(in_thread(wait_for_lock_waiters, database_module.LOCK_WAITERS))
            async with asyncio.timeout(LIMIT / 2):
                for _ in range(12):
                    await made.write(world.attach, free)
            assert not any(task.done() for task in waiting)
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*waiting)
        assert len(await made.read(sids, locked)) == 1 + 12

    async def test_who_comes_again_anyway_is_told_soon_that_a_session_is_locked(
        self, world: World, made: Database, monkeypatch
    ):
        monkeypatch.setattr(lanes, "LOCK_PATIENCE", 10 * LIMIT)
        session_id = (await made.write(world.open)).change.session_id
        with row_locked(session_id):
            async with asyncio.timeout(LIMIT / 2):
                assert await made.try_write(lifecycle.close, session_id, by="me") is None
        closed = await made.try_write(lifecycle.close, session_id, by="me")
        assert closed is not None
        assert closed.state == "closed"

    async def test_what_was_committed_before_a_lock_is_not_done_again(self, world: World, made: Database):
        """A claim whose snapshot is lost takes two transactions, and the second may find the row locked."""
        first, second = [(await made.write(world.open)).change.session_id for _ in range(2)]
        begun, done = threading.Event(), []

        def close_both() -> None:
            done.append(lifecycle.close(first, by="me").state)
            begun.set()
            done.append(lifecycle.close(second, by="me").state)

        with row_locked(second):
            task = asyncio.create_task(made.write(close_both))
            assert await asyncio.to_thread(begun.wait, LIMIT)
            await asyncio.to_thread(in_thread(wait_for_lock_waiters))
        await task
        assert done == ["closed", "closed"]


def terminate_own_connection() -> None:
    pid = backend_pid()
    in_own_connection(terminate, pid)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def in_own_connection(function: Callable[..., Any], *args: Any) -> None:
    in_thread(function, *args)()


def test_the_clock_of_the_database_has_a_zone(database: str):
    assert database_now().utcoffset() is not None


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_time_is_the_databases_and_goes_on_within_a_transaction(database: str, monkeypatch):
    """Otherwise, a transaction that waited for a lock would decide by the time at which it began to wait."""
    monkeypatch.setattr(now.timezone, "now", lambda: datetime(1970, 1, 1, tzinfo=UTC))
    with transaction.atomic():
        first, second = database_now(), database_now()
    assert datetime(1970, 1, 1, tzinfo=UTC) < first < second


async def test_threads_remember_no_queries(made: Database, settings):
    """With DEBUG, Django remembers queries until a request ends; in these threads no request ever ends."""
    settings.DEBUG = True
    await made.write_urgently(lambda: log(UUID(int=0)))
    assert await made.write_urgently(lambda: connection.queries) == []


async def test_a_write_whose_transaction_idled_too_long_is_repeated_and_no_error(
    made: Database, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends an idle connection, say of a stopped process, with an InternalError."""
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL ends connections that idle")
    session_id = (await made.write(world.open)).change.session_id
    look_up, idled = batch.Batch._look_up, []

    def look_up_late(self: batch.Batch) -> None:
        if not idled:
            idled.append(True)
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 20")
            time.sleep(0.3)
        look_up(self)

    monkeypatch.setattr(batch.Batch, "_look_up", look_up_late)
    done = await made.write_gathered(commit_appends, Append(session_id, [action()]))
    assert idled
    assert done.numbers == [0]


async def test_who_waits_for_an_answer_gets_one_while_the_database_hangs(made: Database):
    """A write that has begun continues, with an unknown end; a write that has not begun is dropped."""
    done: list[str] = []

    def commit(values: list[str]) -> list[None]:
        done.extend(values)
        return [None for _ in values]

    async with busy(made):
        with pytest.raises(Unavailable):
            await made.write_gathered(commit, "given up", 0.05)
    assert await made.write_gathered(commit, "written", LIMIT) is None
    assert done == ["written"]
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(LIMIT)
        done.append("late")

    with pytest.raises(Unavailable):
        await made.write_within(0.05, hang)
    assert await asyncio.to_thread(begun.wait, LIMIT)
    release.set()
    await made.close()
    assert done == ["written", "late"]


async def test_a_transaction_whose_answer_nobody_waits_for_any_more_is_not_begun(
    made: Database, database: str
):
    begun, release, done = threading.Semaphore(0), threading.Event(), []

    def block() -> None:
        begun.release()
        release.wait(LIMIT)

    blocked = [asyncio.create_task(made.write(block)) for _ in range(database_module.LIFECYCLE_THREADS)]
    for _ in range(1 if database == "sqlite" else database_module.LIFECYCLE_THREADS):
        assert await asyncio.to_thread(begun.acquire, timeout=LIMIT)
    with pytest.raises(Unavailable):
        await made.write_within(0.05, done.append, "given up")
    release.set()
    await asyncio.gather(*blocked)
    for _ in range(database_module.LIFECYCLE_THREADS):
        await made.write_within(LIMIT, done.append, "written")
    assert done == ["written"] * database_module.LIFECYCLE_THREADS


@pytest.mark.parametrize("step", ["drop_broken_connection", "_run_items", "reset_queries"])
async def test_the_writer_survives_whatever_its_connection_raises(
    made: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    monkeypatch.setattr(lanes, "MAX_IDLE", -1.0)
    broken = monkeypatch.context

    def fail(*args: object) -> None:
        raise RuntimeError("broken")

    async with asyncio.timeout(LIMIT):
        with broken() as patch:
            patch.setattr(lanes, step, fail)
            written = await asyncio.gather(
                made.write_urgently(lambda: 1),
                made.write_gathered(lambda values: values, 2),
                return_exceptions=True,
            )
        assert await made.write_urgently(lambda: 3) == 3
        assert await made.write_gathered(lambda values: values, 4) == 4
    assert all(isinstance(one, int | Unavailable) for one in written)
    assert {record.verb for record in caplog.records} == {"db_thread_failed"}


async def test_the_end_does_not_wait_for_a_database_that_hangs(database: str, monkeypatch):
    monkeypatch.setattr(database_module, "CLOSE_LIMIT", 0.05)
    made = Database()
    async with busy(made):
        async with asyncio.timeout(LIMIT):
            await made.close()


async def test_an_outage_is_told_once_whatever_fails_in_it(made: Database, database: str, caplog):
    if database == "sqlite":
        pytest.skip("it has no connection to lose")
    caplog.set_level("INFO", attempts.logger.name)

    def lose() -> None:
        connection.close()
        raise OperationalError("server closed the connection unexpectedly")

    for method in (made.read, made.write, made.write_urgently):
        with pytest.raises(Unavailable):
            await method(lose)
    await made.read(lambda: None)
    assert [record.verb for record in caplog.records] == ["db_lost", "db_back"]


class DiskFull(Exception):
    """The error of a driver when the disk is full."""

    def __init__(self, vendor: str) -> None:
        super().__init__("no space left")
        self.sqlstate = "53100" if vendor == "postgresql" else None
        self.sqlite_errorname = "SQLITE_FULL"


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the memory of a full disk, which the whole process keeps for a while."""
    monkeypatch.setattr(causes, "QUIET", 0)
    storage.worked()
    yield
    storage.worked()


async def test_a_full_disk_is_told_once_and_by_its_name(
    made: Database, database: str, caplog, room: None, monkeypatch
):
    caplog.set_level("INFO")

    def fail(*values: Any) -> Any:
        raise OperationalError("no space left") from DiskFull(database)

    for _ in range(3):
        for attempt in (made.write_gathered(fail, 1), made.write(fail), made.write_urgently(fail)):
            with pytest.raises(Unavailable):
                await attempt
        await made.read(lambda: None)
    assert storage.lasts
    monkeypatch.setattr(causes, "QUIET", 60)
    await made.write_gathered(lambda values: values, 1)
    assert storage.lasts, "what is small may find room on a full disk"
    monkeypatch.setattr(causes, "QUIET", 0)
    await made.write_gathered(lambda values: values, 1)
    assert not storage.lasts
    told = [(record.verb, record.getMessage()) for record in caplog.records if record.name == causes.__name__]
    assert [verb for verb, _ in told] == ["storage_lost", "storage_back"]
    assert "disk is full" in told[0][1]
    assert not [record for record in caplog.records if getattr(record, "verb", "") == "db_failed"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_full_database_file_is_noticed_by_what_sqlite_says(made: Database, caplog, room: None):
    def fill() -> None:
        with connection.cursor() as cursor:
            pages = cursor.execute("PRAGMA page_count").fetchone()[0]
            free = cursor.execute("PRAGMA freelist_count").fetchone()[0]  # other tests leave some free pages
            cursor.execute(f"PRAGMA max_page_count = {pages}")
            try:
                cursor.execute("CREATE TABLE filler (data)")
                cursor.execute(f"INSERT INTO filler VALUES (zeroblob({(free + 10) * 65536}))")
            finally:
                cursor.execute("PRAGMA max_page_count = 1000000000")

    with pytest.raises(Unavailable):
        await made.write(fill)
    assert storage.lasts
    assert "SQLITE_FULL" in caplog.text


async def test_what_else_fails_is_told_with_what_the_driver_says(made: Database, database: str, caplog):
    def fail() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        raise OperationalError("deadlock detected\nDETAIL: of somebody")

    with pytest.raises(Unavailable):
        await made.write(fail)
    assert "A transaction failed: OperationalError: deadlock detected" in caplog.text
    assert "of somebody" not in caplog.text


async def test_a_missing_table_is_not_taken_for_an_outage(made: Database, database: str, caplog):
    """A replica behind a router may cause this while the thread has no connection to the default database."""

    def fail() -> None:
        connection.close()
        raise ProgrammingError('relation "ohsessions_session" does not exist')

    with pytest.raises(ProgrammingError):
        await made.read(fail)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_pool_whose_connections_are_all_taken_is_named_in_the_log(
    made: Database, caplog, monkeypatch, postgres_settings: Any
):
    pooled = postgres_settings["OPTIONS"] | {"pool": {"min_size": 1, "max_size": 1, "timeout": 0.2}}
    monkeypatch.setitem(postgres_settings, "OPTIONS", pooled)
    taken, release = threading.Event(), threading.Event()

    def take() -> None:
        connection.ensure_connection()
        taken.set()
        release.wait(LIMIT)

    holding = asyncio.create_task(made.read(take))
    try:
        assert await asyncio.to_thread(taken.wait, LIMIT)
        with pytest.raises(Unavailable):
            await made.write(connection.ensure_connection)
    finally:
        release.set()
        await holding
        await made.write(lambda: connections_module["default"].close_pool())
    assert "no connection of the pool was free within 0.2 s: all 1 are taken" in caplog.text
    assert "max_size" in caplog.text


@pytest.fixture(params=["Asia/Kolkata", "America/New_York"])
def no_zones(request: pytest.FixtureRequest, settings: Any) -> str:
    settings.USE_TZ = False
    settings.TIME_ZONE = request.param
    return str(request.param)


def test_times_without_a_zone_are_those_of_the_site_on_both_databases(no_zones: str, database: str):
    now = database_now()
    assert now.tzinfo is None
    assert abs(as_aware(now) - datetime.now(UTC)) < timedelta(minutes=5)
    assert as_stored(as_aware(now)) == now
    process = Process.objects.get(pk=leases.register(Process.Kind.WORKER))
    assert abs(process.started_at - now) < timedelta(minutes=5)
    assert abs(datetime.fromisoformat(wire.timestamp(process.started_at)) - datetime.now(UTC)) < timedelta(
        minutes=5
    )


def test_times_with_a_zone_are_stored_as_they_are(database: str):
    assert as_stored(NOW) is as_aware(NOW) is NOW
