"""Appends to a log, before their events have numbers, and the results of appends."""

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
    """The encoded arguments, which only the runtime may see."""
    clean: Callable[[str], str] | None = None
    """A function that removes the session's secrets from a body. check_same() applies it to an event that was
    stored before the session had them."""
    waits: bool = False
    """True if this is an action that the runtime handles in its turn (an interrupt is not)."""


@dataclass(frozen=True, slots=True)
class Append:
    """Events and marks that one writer stores together, all or nothing.

    A client sets the `sid` of its connection. A runtime sets its `epoch`, and may move the session's marks.
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
    """The version of the secrets that a client's gateway has removed."""

    @property
    def characters(self) -> int:
        return sum(len(event.body) for event in self.events)


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an Append: its events' numbers, and the events as (number, data).

    Events that an earlier try stored are included: a writer that repeats an append cannot know whether they
    were announced.
    """

    numbers: list[int]
    stored: list[tuple[int, str]]
    state: str
    worker: UUID | None
    epoch: int
