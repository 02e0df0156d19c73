"""Where a session's snapshot lives: in its row when small, else in a file of Django's storage.

A file has a name that was never used before and is never overwritten: the row that names it is written after
it, under the epoch, and the file it named before is deleted after the commit. So a crash at any point leaves
the row naming a whole file; a file that no row names is garbage for the sweep.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from ohsessions.core.wire import encode
from ohsessions.models import Session

MAX_INLINE = 64 * 1024
"""Characters of JSON that are kept in the row."""
FOLDER = "ohsessions/snapshots"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot as its row will name it: the value itself, or a file."""

    value: Any
    file: str = ""


def store(session_id: UUID, value: Any) -> Snapshot:
    """Makes a snapshot ready to be named by its row. Raises ValueError or TypeError if it is not JSON."""
    text = encode(value)
    if len(text) <= MAX_INLINE:
        return Snapshot(value)
    name = f"{FOLDER}/{session_id}/{uuid.uuid4().hex}.json"
    return Snapshot(None, default_storage.save(name, ContentFile(text.encode())))


def load(session: Session) -> Any:
    """The value of a session's snapshot, None if it has none."""
    if not session.snapshot_file:
        return session.snapshot
    with default_storage.open(session.snapshot_file) as file:
        return json.loads(file.read())


def discard(file: str) -> None:
    """Deletes a file that no row names any more."""
    if file:
        default_storage.delete(file)
