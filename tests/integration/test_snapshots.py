"""Snapshots: in the row or in a file, and the deletion of files."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage

from ohsessions import snapshots
from ohsessions.core.errors import WireError
from ohsessions.database import Database
from ohsessions.journal import Append
from ohsessions.models import Session
from ohsessions.snapshots import FOLDER, Snapshot
from tests.integration.world import World, append, session
from tests.requirements import wait_until

LIMIT = 10.0


@pytest.fixture(autouse=True)
def _files(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    }


def stored(world: World, value: object) -> Session:
    """Return the row of a session with this snapshot."""
    session_id, epoch = world.run()
    append(Append(session_id, epoch=epoch, checkpoint=snapshots.store(session_id, value)))
    return session(session_id)


@pytest.mark.parametrize("value", [None, 1, "text", {"a": [1, 2.5, None, True]}, [], "ä" * 1000])
def test_a_small_snapshot_is_in_the_row(world: World, value):
    row = stored(world, value)
    assert row.snapshot_file == ""
    assert snapshots.load(snapshots.named_by(row)) == value


@pytest.mark.parametrize("value", ["x" * 70_000, {"key": "ä" * 70_000}, [1] * 70_000])
def test_a_large_snapshot_is_in_a_file(world: World, value):
    row = stored(world, value)
    assert row.snapshot is None
    assert default_storage.exists(row.snapshot_file)
    assert snapshots.load(snapshots.named_by(row)) == value


@pytest.mark.parametrize("value", ["nul \0", "surrogate \ud800", {"\0": 1}, "a backslash \\u0000"])
@pytest.mark.parametrize("size", [1, 70_000])
def test_what_postgresql_refuses_comes_back_as_it_was(world: World, value, size):
    assert snapshots.load(snapshots.named_by(stored(world, [value, "x" * size]))) == [value, "x" * size]


CANARY = "canary-5b1f"


def test_neither_row_nor_file_tells_what_is_in_a_snapshot(world: World, tmp_path):
    row = stored(world, {"KEY": CANARY})
    assert CANARY not in json.dumps(row.snapshot)
    assert snapshots.load(snapshots.named_by(row)) == {"KEY": CANARY}
    large = stored(world, {"KEY": CANARY, "more": "x" * 70_000})
    assert CANARY.encode() not in Path(default_storage.path(large.snapshot_file)).read_bytes()


def test_files_and_their_folders_are_for_their_user_only(world: World, tmp_path):
    tmp_path.chmod(0o755)
    path = Path(default_storage.path(stored(world, "x" * 70_000).snapshot_file))
    modes = [oct(part.stat().st_mode & 0o777) for part in (path, *path.parents[:3])]
    assert path.parents[2] == tmp_path, "which is the site's"
    assert modes == ["0o600", "0o700", "0o700", "0o755"]


def test_snapshots_of_older_versions_still_load(world: World):
    row = stored(world, None)
    for value in ({"a": 1}, "text", [1], 0, False, None, {"$encrypted": 1, "more": 2}):
        Session.objects.filter(pk=row.pk).update(snapshot=value)
        assert snapshots.load(snapshots.named_by(session(row.pk))) == value
    for value in ({"a": 1}, "text", None, [1]):
        file = default_storage.save(f"{FOLDER}/old.json", ContentFile(json.dumps(value).encode()))
        assert snapshots.load(Snapshot(None, file)) == value


@pytest.mark.parametrize("size", [1, 70_000])
def test_a_snapshot_outlives_its_key_while_that_is_among_the_keys(world: World, settings, size):
    def use(*keys: str) -> None:
        settings.OHSESSIONS = {**settings.OHSESSIONS, "SECRETS_KEYS": [*keys]}

    use("first")
    row = stored(world, "x" * size)
    use("second", "first")
    assert snapshots.load(snapshots.named_by(row)) == "x" * size
    use("second")
    with pytest.raises(WireError, match="SECRETS_KEYS"):
        snapshots.load(snapshots.named_by(row))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", object()])
def test_what_is_not_json_is_refused_and_leaves_no_file(world: World, value, tmp_path):
    session_id, _ = world.run()
    with pytest.raises((TypeError, ValueError)):
        snapshots.store(session_id, [value, "x" * 70_000])
    assert not any(tmp_path.iterdir())


def test_no_file_is_ever_overwritten(world: World):
    session_id, _ = world.run()
    files = {snapshots.store(session_id, "x" * 70_000).file for _ in range(5)}
    assert len(files) == 5


def test_the_name_of_a_file_that_is_gone_is_not_used_again(world: World):
    """A late deletion of the old file must not find a new one."""
    session_id, _ = world.run()
    files = set()
    for _ in range(3):
        files.add(file := snapshots.store(session_id, "x" * 70_000).file)
        default_storage.delete(file)
    assert len(files) == 3


def test_a_file_and_its_name_are_on_the_disk_before_a_row_names_it(monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = Path(default_storage.path(snapshots.store(uuid4(), "x" * 70_000).file))
    parts = [path, *path.parents[:3]]
    assert parts[-1] == Path(default_storage.location), "the first snapshot has its folders made"
    assert synced == [part.stat().st_ino for part in parts]


def test_a_file_that_cannot_be_deleted_does_not_fail_what_was_committed(world: World, monkeypatch, caplog):
    row = stored(world, "x" * 70_000)

    def fail(storage: FileSystemStorage, name: str) -> None:
        raise PermissionError(name)

    smaller = Append(row.pk, epoch=row.epoch, checkpoint=snapshots.store(row.pk, "small"))
    with monkeypatch.context() as broken:
        broken.setattr(FileSystemStorage, "delete", fail)
        assert append(smaller).epoch == row.epoch
        wait_until(lambda: "Still there" in caplog.text, "the failure being told")


class SlowlyDeleting(FileSystemStorage):
    """A storage that deletes when a test allows it."""

    may_delete = threading.Event()

    def delete(self, name: str) -> None:
        assert self.may_delete.wait(LIMIT)
        super().delete(name)


@pytest.fixture
def slow(settings, monkeypatch) -> Iterator[threading.Event]:
    """Yield an event; until the test sets it, the storage deletes nothing."""
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": f"{__name__}.SlowlyDeleting"}}
    monkeypatch.setattr(SlowlyDeleting, "may_delete", threading.Event())
    yield SlowlyDeleting.may_delete
    SlowlyDeleting.may_delete.set()


def test_no_transaction_waits_for_the_end_of_a_file_that_it_replaced(world: World, slow):
    row = stored(world, "x" * 70_000)
    append(Append(row.pk, epoch=row.epoch, checkpoint=snapshots.store(row.pk, "small")))
    assert default_storage.exists(row.snapshot_file)
    slow.set()
    wait_until(lambda: not default_storage.exists(row.snapshot_file), "the end of the file")


def test_what_a_slow_storage_has_not_deleted_is_left_to_the_sweep(world: World, slow, monkeypatch, caplog):
    monkeypatch.setattr(snapshots, "MOST_DISCARDS", 1)
    row = stored(world, "x" * 70_000)
    files = [row.snapshot_file, *(snapshots.store(row.pk, text * 70_000).file for text in "abc")]
    append(Append(row.pk, epoch=row.epoch, checkpoint=Snapshot(None, files[1])))
    wait_until(lambda: snapshots._discarding.waiting == 0, "the first file being deleted")
    for file in files[2:]:
        append(Append(row.pk, epoch=row.epoch, checkpoint=Snapshot(None, file)))
    assert caplog.messages == [f"Left to the sweep: {files[2]}"]
    slow.set()
    wait_until(lambda: not any(map(default_storage.exists, files[:2])), "the end of the first two files")
    monkeypatch.setattr(snapshots, "SPARED", timedelta(0))
    assert snapshots.sweep() == 1
    assert [default_storage.exists(file) for file in files] == [False, False, False, True]


def make_old(file: str, minutes: float = 61) -> None:
    then = time.time() - minutes * 60
    os.utime(default_storage.path(file), (then, then))


def test_a_sweep_deletes_old_files_that_no_session_names(world: World):
    assert snapshots.sweep() == 0, "there is no folder yet"
    named = stored(world, "x" * 70_000).snapshot_file
    fresh = default_storage.save(f"{FOLDER}/fresh.json", ContentFile(b"1"))
    orphan = default_storage.save(f"{FOLDER}/orphan.json", ContentFile(b"1"))
    for file in (named, orphan):
        make_old(file)
    make_old(fresh, minutes=30)
    assert snapshots.sweep() == 1
    assert [default_storage.exists(file) for file in (named, fresh, orphan)] == [True, True, False]


def test_a_file_that_is_named_while_a_sweep_looks_stays(world: World, monkeypatch):
    row = stored(world, "small")
    file = default_storage.save(f"{FOLDER}/late.json", ContentFile(b"1"))
    make_old(file)
    listdir = FileSystemStorage.listdir

    def list_before_it_is_named(storage: FileSystemStorage, path: str) -> object:
        listed = listdir(storage, path)
        Session.objects.filter(pk=row.pk).update(snapshot_file=file)
        return listed

    monkeypatch.setattr(FileSystemStorage, "listdir", list_before_it_is_named)
    assert snapshots.sweep() == 0
    assert default_storage.exists(file)


async def test_the_sweep_of_a_worker_has_no_thread_of_the_database_wait_for_the_storage(
    database: str, monkeypatch
):
    made = Database()
    await asyncio.to_thread(default_storage.save, f"{FOLDER}/orphan.json", ContentFile(b"1"))
    make_old(f"{FOLDER}/orphan.json")
    threads: set[str] = set()

    def noting(method):
        def noted(*args):
            threads.add(threading.current_thread().name)
            return method(*args)

        return noted

    for name in ("listdir", "get_modified_time", "delete"):
        monkeypatch.setattr(FileSystemStorage, name, noting(getattr(FileSystemStorage, name)))
    await snapshots.asweep(made)
    await made.close()
    assert not default_storage.exists(f"{FOLDER}/orphan.json")
    assert threads == {"ohsessions-storage", "ohsessions-discards"}
