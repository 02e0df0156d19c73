"""The removal of directories below WORKSPACE_ROOT whose sessions no longer exist.

A directory is removed if its name is a session's id, it is not new, and no row of this database has that id.
Users wrote its contents, so no link in it is followed, and any depth of nesting works. A root belongs to one
database. A file in the root names that database, and the workers of other databases do not touch the root.
Else a test, or a site with a new database, would remove the work of all sessions of the old one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
import uuid
from datetime import UTC
from pathlib import Path
from uuid import UUID

from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from ohsessions.concurrency.threads import Threads
from ohsessions.conf import conf
from ohsessions.database import Database, as_aware
from ohsessions.models import Session

logger = logging.getLogger(__name__)

MARK = ".ohsessions-database"
"""The file in a root that names its database."""
SPARED_SECONDS = 3600.0
"""The sweep keeps directories that are younger, in seconds: their sessions may not be visible yet."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_threads = Threads("ohsessions-workspaces")


def sweep(*, dry_run: bool = False) -> int:
    """Remove the directories of sessions that no longer exist, and return how many.

    The first sweep of a root only writes the file that names its database.
    """
    if not _is_ours(_database()):
        return 0
    orphans = _orphans(_old_directories())
    return len(orphans) if dry_run else _remove_all(orphans)


async def asweep(database: Database) -> None:
    """See sweep(). No thread of the database waits for the disk."""
    if await _threads.call(_is_ours, await database.read(_database)):
        orphans = await database.read(_orphans, await _threads.call(_old_directories))
        await _threads.call(_remove_all, orphans)


def _database() -> str:
    """Return what identifies this database: the time of its first migration. Empty if unknown."""
    applied = MigrationRecorder(connection).applied_migrations()
    first = applied.get(("ohsessions", "0001_initial"))
    return as_aware(first.applied).astimezone(UTC).isoformat() if first is not None else ""


def _is_ours(database: str) -> bool:
    """Return whether the root belongs to this database. A root without one belongs to this database from now
    on; this time the result is False."""
    root = Path(conf.WORKSPACE_ROOT)
    if not database or not root.is_dir():
        return False
    mark = root / MARK
    try:
        owner = mark.read_text().strip()
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError), mark.open("x") as file:
            file.write(database)
        return False
    if owner != database:
        logger.warning(
            "%s holds the workspaces of another database: they are left alone. Give each site a"
            " WORKSPACE_ROOT of its own; or, if that database is no more, delete the file %s.",
            root,
            mark,
            extra={"verb": "workspaces_foreign"},
        )
    return owner == database


def _old_directories() -> list[UUID]:
    newest = time.time() - SPARED_SECONDS
    found = []
    with os.scandir(conf.WORKSPACE_ROOT) as entries:
        for entry in entries:
            key = _session_of(entry.name)
            with contextlib.suppress(FileNotFoundError):
                is_old = entry.stat(follow_symlinks=False).st_mtime < newest
                if key is not None and is_old and entry.is_dir(follow_symlinks=False):
                    found.append(key)
    return found


def _session_of(name: str) -> UUID | None:
    """Return the session's id from a directory's name; None if runtimes would write the name differently."""
    try:
        key = UUID(name)
    except ValueError:
        return None
    return key if str(key) == name else None


def _orphans(keys: list[UUID]) -> list[UUID]:
    """Return the ids that no session has. Call it after the listing: a session precedes its directory."""
    there = Session.objects.only("pk").in_bulk(keys)
    return [key for key in keys if key not in there]


def _remove_all(keys: list[UUID]) -> int:
    removed = 0
    root = os.open(conf.WORKSPACE_ROOT, DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for key in keys:
            try:
                remove_tree(root, str(key))
                removed += 1
            except OSError as error:
                extra = {"verb": "workspace_left"}
                logger.warning("The workspace %s is still there: %s", key, error.strerror, extra=extra)
    finally:
        os.close(root)
    return removed


def remove_tree(parent: int, name: str) -> None:
    """Remove a directory and its contents. `parent`: the descriptor of the directory that contains it.

    Inner directories are moved to the top before they are emptied: they may nest deeper than Python's
    recursion limit, paths may be too long, and descriptors are few. Raises OSError.
    """
    top = _open(parent, name)
    try:
        while entries := os.listdir(top):
            for entry in entries:
                if not _is_directory(top, entry):
                    os.unlink(entry, dir_fd=top)
                    continue
                inner = _open(top, entry)
                try:
                    _empty(inner, top)
                finally:
                    os.close(inner)
                os.rmdir(entry, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(directory: int, top: int) -> None:
    """Remove the files of a directory, and move its sub-directories to the top."""
    for entry in os.listdir(directory):
        if _is_directory(directory, entry):
            os.close(_open(directory, entry))  # to move a directory needs the right to write into it
            os.rename(entry, uuid.uuid4().hex, src_dir_fd=directory, dst_dir_fd=top)
        else:
            os.unlink(entry, dir_fd=directory)


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open(parent: int, name: str) -> int:
    """Open a directory, never through a link, and return its descriptor. Restores rights that a user took."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(name, DIRECTORY, dir_fd=parent)
        os.fchmod(descriptor, stat.S_IRWXU)
        return descriptor
    os.chmod(name, stat.S_IRWXU, dir_fd=parent)
    return os.open(name, DIRECTORY, dir_fd=parent)
