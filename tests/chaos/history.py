"""The records of a run, for the checker and for people. All times are run times.

A run time is the number of seconds since the run began, on the machine's monotonic clock. The harness and
everything that it starts run on one machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tests.chaos.actions import COUNT, INTERRUPT

FOREVER = float("inf")


def digest(value: Any) -> str:
    """Return a short name for a text, or for a JSON value however it is spaced."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(slots=True)
class Sent:
    """One action of one client. `number` is the id that acknowledged it. `order` is its place among the
    actions that its client sent on one attachment, if the first sending was acknowledged."""

    tag: str
    session: str
    client: str
    sends: int = 0
    number: int | None = None
    sent_at: float = 0.0
    gateway: str = ""
    """The gateway to which it was sent first, at `sent_at`."""
    acknowledged_at: float | None = None
    attachment: int = -1
    order: int = 0
    refusal: str = ""
    kind: str = COUNT


@dataclass(slots=True)
class Attachment:
    """The events that a client was sent between one first answer and the next one.

    `received` has the id and digest of each event, and the time at which it came. The digest is `text …` for
    a raw client, `value …` for others.
    """

    client: str
    session: str
    at: float
    cursor: int
    raw: bool
    gateway: str
    received: list[tuple[int, str, float]] = field(default_factory=list)
    ended_at: float = FOREVER
    at_end: bool = False
    """True if it lasted until the end of the run. Then it must have reached the head."""


@dataclass(frozen=True, slots=True)
class Departure:
    """The end of a connection. `at` is the client's time, `noticed_at` that of its row, if it has one."""

    client: str
    session: str
    sid: str
    gateway: str
    at: float
    noticed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the log. `cause`, `reason`, `last` and `counter` are from its content, if that has them."""

    session: str
    number: int
    at: float
    source: str
    kind: str
    key: str
    text_digest: str
    value_digest: str
    tag: str | None = None
    cause: int | None = None
    reason: str | None = None
    last: bool = False
    counter: int | None = None

    @property
    def epoch(self) -> int | None:
        """The epoch under which an owner wrote it; None for an event of a client."""
        epoch, dot, _ = self.key.partition(".")
        return int(epoch) if dot and epoch.isdigit() else None

    @property
    def is_interrupt(self) -> bool:
        return self.source == "user" and self.kind == INTERRUPT


@dataclass(frozen=True, slots=True)
class Move:
    """A row of Transition."""

    session: str
    at: float
    origin: str
    target: str
    reason: str
    by: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session at the end of the run."""

    session: str
    runtime: str
    state: str
    head: int
    last_action_number: int
    handled_number: int


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a runtime, or a program that it started (`beat`), wrote. `epoch` is that of the claim."""

    at: float
    session: str
    epoch: int
    activation: str
    pid: int
    kind: str
    action: int | None = None
    counter: int | None = None


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was injected. `pid` is that of the process that it hit."""

    kind: str
    target: str
    at: float
    until: float
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one session in the database at one moment. `worker` is the pid of its owner."""

    at: float
    session: str
    state: str
    worker: int | None
    attached: int
    pending: bool


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that still exists although nobody owns it."""

    what: str
    detail: str
    session: str = ""


@dataclass(slots=True)
class History:
    """All records of a run."""

    options: dict[str, Any]
    sent: list[Sent] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    sessions: list[SessionRow] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    faults: list[Injected] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Processes that ended by themselves, drains that failed, and waits of the quiet phase that timed out."""
    quiet_at: float = 0.0
    refused_writes: int = 0
    logged_errors: dict[str, int] = field(default_factory=dict)
    """The number of each message that the processes logged at ERROR."""
    memory: dict[str, int] = field(default_factory=dict)
    """The largest resident size of each kind of process, in MiB."""

    def events_of(self, session: str) -> list[Event]:
        return sorted((one for one in self.events if one.session == session), key=lambda one: one.number)

    def save(self, file: Path) -> None:
        with file.open("w") as out:
            for name in self.__slots__:
                value = getattr(self, name)
                for item in value if isinstance(value, list) else [value]:
                    item = asdict(item) if hasattr(item, "__dataclass_fields__") else item
                    out.write(json.dumps({name: item}) + "\n")


def read_lines(files: Iterable[Path], started: float) -> Iterator[Line]:
    """Yield the lines that runtimes wrote. A line that a kill cut off is left out."""
    for file in files:
        for text in file.read_text().splitlines():
            try:
                record = json.loads(text)
            except ValueError:
                continue
            record["at"] -= started
            yield Line(**record)
