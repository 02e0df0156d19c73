"""The base class of runtimes, which a site subclasses, and the context that a runtime works with.

A runtime owns its memory, processes and files, and no part of the session. It receives actions (`handle`,
`interrupt`), emits events (`context.emit`), and returns its state as JSON before it is closed (`passivate`).
It never sees connections, tokens or the database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    import asyncio

JSON = Any
"""None, bool, int, float, str, list of JSON, or dict of str to JSON."""


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a client, as stored.

    `id` is the number of its event on the wire, `type` the `action` of the payload. `args` are its arguments:
    the real ones, even if they are hidden from everybody else (`hidden`).
    """

    id: int
    type: str
    args: dict[str, JSON] = field(default_factory=dict)
    hidden: bool = False


class SupervisedProcess(Protocol):
    """A child process below a watchdog, which kills it with all its descendants if the worker is gone."""

    @property
    def pid(self) -> int:
        """The process id of the program, not of its watchdog."""

    @property
    def stdin(self) -> asyncio.StreamWriter: ...

    @property
    def stdout(self) -> asyncio.StreamReader:
        """Standard output and standard error, merged."""

    def signal_group(self, number: int) -> None:
        """Send a signal to the program's process group. Do nothing if the program has ended."""

    async def wait(self) -> int:
        """Wait until the program has ended. Return its exit code (negative: killed by that signal)."""

    async def kill(self) -> None:
        """Kill the program and all its descendants, wherever they moved, and wait until all are gone."""


class RuntimeContext(Protocol):
    """A runtime's access to its session. Each activation has its own, which is useless afterwards."""

    session_id: UUID
    settings: Mapping[str, JSON]
    """The session's settings, keys in lower case."""
    secrets: Mapping[str, str]
    """The session's secrets by name (`llm_api_key`), deeper ones by path (`llm.api_key`). They are cut
    out of everything emitted. Later INITs may add to them and change them: see Runtime.secrets_changed()."""
    workspace: Path
    """A directory for this session's files. It survives passivation. A runtime that needs it creates it."""

    @property
    def epoch(self) -> int:
        """The session's epoch. It rises with each change of owner: a fencing token for writes elsewhere."""

    async def emit(
        self,
        *,
        observation: str | None = None,
        action: str | None = None,
        content: str = "",
        args: Mapping[str, JSON] | None = None,
        extras: Mapping[str, JSON] | None = None,
        message: str = "",
        source: str = "agent",
        cause: int | None = None,
    ) -> None:
        """Store one event (either an `observation` or an `action`) and send it to all attached clients.

        `cause` is the number of the action that it answers; by default, the action being handled. Return as
        soon as the event has its place in the queue; wait while the queue is full. Raises InvalidEvent if
        the event is not valid or cannot be JSON, StaleEpoch if this activation is over.
        """

    async def set_agent_state(self, state: str) -> None:
        """Emit `agent_state_changed`, unless that is the state already. States: see the protocol."""

    async def notify(self, notice: Mapping[str, JSON]) -> None:
        """Send a notice (`{"notice": "delta", …}`) to all clients attached now. It is not stored."""

    def checkpoint(self, snapshot: JSON) -> None:
        """Set the snapshot that `start` receives if this worker dies. It is stored in the transaction that
        ends the action being handled or, outside of an action, with the next event."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        scratch: Path | None = None,
    ) -> SupervisedProcess:
        """Start a program below a watchdog. Its environment is exactly `env`, with nothing of the server's.

        `scratch` is a directory of plain files. The watchdog removes it after the last of its processes.
        """


class Runtime:
    """Base class of the runtimes that a site writes. One instance serves one session, for one activation.

    All methods run on the worker's event loop and must not block it; BlockingRuntime is for code that blocks.
    An exception from `__init__`, `start`, `handle`, `interrupt` or `secrets_changed` is a crash: the user is
    notified and the runtime is closed. It is started again from its last checkpoint, within a budget. Errors
    of `busy` and `close` are logged. If `passivate` fails, the last checkpoint is kept.
    """

    retries_interrupted: bool = False
    """True if an action that the death of its worker cut off may be handled again from the start, once."""

    secret_settings: tuple[str, ...] = ()
    """Further secret settings, beside those that look like one: names, at any depth, or dotted paths."""

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        """`options` are the `OPTIONS` of this runtime's alias in the setting `RUNTIMES`."""
        self.context = context
        self.options = options

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> Iterator[str]:
        """Yield sentences about mistakes in the OPTIONS of an entry of RUNTIMES, for the checks."""
        yield from ()

    @classmethod
    def is_isolated(cls, options: Mapping[str, Any]) -> bool:
        """Return whether these OPTIONS keep its users from the host on which it runs."""
        return True

    @property
    def busy(self) -> bool:
        """True if it works on its own account, so that passivation should wait (at most MAX_BUSY)."""
        return False

    async def start(self, snapshot: JSON) -> None:
        """Get ready, from the result of `passivate`, from the last checkpoint, or from nothing (None)."""

    async def handle(self, action: Action) -> None:
        """Do the work of one action. Actions come one at a time, in order."""
        raise NotImplementedError(f"Write {type(self).__name__}.handle(): it does the work of an action.")

    async def interrupt(self, action: Action) -> None:
        """Handle a `change_agent_state` at once, also while `handle` runs."""

    async def secrets_changed(self, names: Collection[str]) -> None:
        """Handle new names, or new values, in `context.secrets`; also while `handle` runs."""

    async def passivate(self) -> JSON:
        """Return the state for the next `start`. `close` follows."""
        return None

    async def close(self) -> None:
        """Free everything. It is called exactly once after a call of `start`, even after an error."""
