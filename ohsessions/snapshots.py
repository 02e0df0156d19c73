"""The storage of a session's snapshot: in its row if it is small, else in a file of Django's storage.

It is encrypted with SECRETS_KEYS in both places, since a runtime's state (such as the variables of a shell)
may be as secret as the settings of INIT. A file has a name that was never used before, and is never
overwritten. The row that names it is written after it, under the epoch. The file that the row named before is
deleted after the commit. So after a crash at any point the row names a complete file. The sweep deletes files
that no row names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import transaction
from django.utils import timezone

from ohsessions import access
from ohsessions.concurrency.threads import Threads
from ohsessions.core.wire import encode
from ohsessions.database import Database
from ohsessions.models import Session

logger = logging.getLogger(__name__)

MAX_IN_ROW = 64 * 1024
"""Characters of JSON that are stored in the row, where encryption makes them a third longer."""
ENCRYPTED = "$encrypted"
"""The only key of the object that is stored in the row for an encrypted snapshot."""
TOKEN_START = b"gAAAA"
"""The beginning of an encrypted file. JSON never begins like this."""
FILE_MODE, FOLDER_MODE = 0o600, 0o700
FOLDER = "ohsessions/snapshots"
STORAGE_THREADS = 16
"""Files that a process reads and writes at a time."""
MOST_DISCARDS = 1000
"""Files that may wait for deletion. If the storage is slow, the sweep deletes the rest."""
SPARED = timedelta(hours=1)
"""The sweep keeps files that are younger: their rows may not be written yet."""

# Own threads: those of runtimes must not delay these calls, and a storage that hangs must not delay encoding.
_encoding = Threads("ohsessions-snapshots")
_storage = Threads("ohsessions-storage", STORAGE_THREADS)
_discarding = Threads("ohsessions-discards")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as its row stores it: the value itself, or the name of a file."""

    value: Any
    file: str = ""


def store(session_id: UUID, value: Any) -> Snapshot:
    """Return the snapshot of a value, for replace(); store its file if it is large.

    Raises ValueError or TypeError if the value is not JSON.
    """
    return _inline(value) or _save(session_id, value)


async def astore(session_id: UUID, value: Any) -> Snapshot:
    """See store()."""
    small = await _encoding.call(_inline, value)
    if small is not None:
        return small
    return await _storage.call(_save, session_id, value)


def _inline(value: Any) -> Snapshot | None:
    """Return the snapshot of a value that fits into the row, else None. The value None is stored as None."""
    text = _encode(value)
    if len(text) > MAX_IN_ROW:
        return None
    return Snapshot(None if value is None else {ENCRYPTED: access.encrypt(text)})


def _encode(value: Any) -> str:
    text = encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def _save(session_id: UUID, value: Any) -> Snapshot:
    name = f"{FOLDER}/{session_id.hex}.{uuid.uuid4().hex}.json"
    name = default_storage.save(name, ContentFile(access.encrypt(_encode(value)).encode()))
    _reach_the_disk(name)
    return Snapshot(None, name)


def _reach_the_disk(name: str) -> None:
    """Make a file, and the folders that may be new, durable and readable by this user only.

    The row that names the file survives a power cut, so the file must, too. Storages other than the file
    system do both themselves.
    """
    if not isinstance(default_storage, FileSystemStorage):
        return
    path = Path(default_storage.path(name))
    root = Path(default_storage.location)
    folders = [folder for folder in path.parents if folder.is_relative_to(root)]
    for part in (path, *folders):
        descriptor = os.open(part, os.O_RDONLY)
        try:
            if part != root:  # the site owns the root, and may serve it to the world
                _close_to_others(descriptor, FILE_MODE if part == path else FOLDER_MODE)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _close_to_others(descriptor: int, mode: int) -> None:
    if os.fstat(descriptor).st_mode & 0o777 != mode:
        with contextlib.suppress(PermissionError):  # it belongs to another user
            os.fchmod(descriptor, mode)


def named_by(session: Session) -> Snapshot:
    """Return the snapshot that a session's row names."""
    return Snapshot(session.snapshot, session.snapshot_file)


def load(snapshot: Snapshot) -> Any:
    """Return the value of a snapshot, or None if there is none.
    Raises OSError or ValueError if its file is lost, WireError if no key of SECRETS_KEYS decrypts it.
    """
    if snapshot.file:
        with default_storage.open(snapshot.file) as file:
            content = file.read()
        if content.startswith(TOKEN_START):
            content = access.decrypt(content.decode())
        return json.loads(content)
    if is_encrypted(snapshot.value):
        return json.loads(access.decrypt(snapshot.value[ENCRYPTED]))
    return snapshot.value


def is_encrypted(value: Any) -> bool:
    """Return whether a row's snapshot is encrypted. Older versions stored the value itself."""
    return isinstance(value, dict) and value.keys() == {ENCRYPTED}


async def aload(snapshot: Snapshot) -> Any:
    """See load()."""
    if snapshot.file:
        return await _storage.call(load, snapshot)
    return await _encoding.call(load, snapshot) if is_encrypted(snapshot.value) else snapshot.value


def replace(session: Session, snapshot: Snapshot) -> None:
    """Set a session's snapshot. The file that it named before is deleted after the commit.

    Call it in the transaction that saves the session.
    """
    before = session.snapshot_file
    session.snapshot, session.snapshot_file = snapshot.value, snapshot.file
    if before and before != snapshot.file:
        transaction.on_commit(lambda: _discard_soon(before))


def _discard_soon(file: str) -> None:
    """Queue a file for another thread: the one that commits writes for all sessions, and heartbeats first."""
    if _discarding.waiting < MOST_DISCARDS:
        _discarding.put(_discard, file)
    else:
        logger.warning("Left to the sweep: %s", file, extra={"verb": "snapshot_left"})


def _discard(file: str) -> None:
    try:
        default_storage.delete(file)
    except Exception as error:
        # The sweep tries again.
        logger.warning("Still there: %s (%s)", file, error, extra={"verb": "snapshot_left"})


def sweep(*, dry_run: bool = False) -> int:
    """Delete the files that no session names (any more) and that are not new, and return how many."""
    unnamed = _unnamed(_old_files())
    for file in () if dry_run else unnamed:
        _discard(file)
    return len(unnamed)


async def asweep(database: Database) -> None:
    """See sweep(). No thread of the database waits for the storage."""
    for file in await database.read(_unnamed, await _storage.call(_old_files)):
        await _discarding.call(_discard, file)


def _old_files() -> set[str]:
    try:
        names = default_storage.listdir(FOLDER)[1]
    except FileNotFoundError:
        return set()
    newest, old = timezone.now() - SPARED, set()
    for file in (f"{FOLDER}/{name}" for name in names):
        with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile
            if default_storage.get_modified_time(file) < newest:
                old.add(file)
    return old


def _unnamed(files: set[str]) -> set[str]:
    """Return the files that no row names. Call it after the listing, so that it sees newly named files."""
    return files - set(Session.objects.exclude(snapshot_file="").values_list("snapshot_file", flat=True))
