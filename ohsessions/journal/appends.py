"""What is appended to a log, before it has numbers, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ohsessions.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event without a number. `body` is its encoded JSON without id and timestamp (see core.wire)."""

    source: str
    kind: str
    body: str
    write_key: str = field(default_factory=lambda: f"g:{uuid.uuid4().hex}")
    hidden: str | None = None
    """The encoded arguments that only the runtime may see."""
    clean: Callable[[str], str] | None = None
    """Cuts the session's secrets out of a body: to compare it with one that was stored before they came."""
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
    secrets_version: int | None = None
    """Of the secrets that a client's gateway has cut out."""

    @property
    def characters(self) -> int:
        return sum(len(event.body) for event in self.events)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of an Append: its events' numbers, and the events as (number, data).

    Those that an earlier try had stored are among them: whoever repeats it does not know who heard of them.
    """

    numbers: list[int]
    stored: list[tuple[int, str]]
    state: str
    worker: UUID | None
    epoch: int
