"""What works behind a session: the base class a site subclasses, and what it is given to work with.

A runtime owns its own memory, processes and files, and nothing of the session: it is told what to do
(`handle`, `interrupt`), says what happens (`context.emit`), and gives its state as JSON when it has to make
room (`passivate`). It never sees connections, tokens or the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from ohsessions.core.threads import Threads

JSON = Any
"""None, bool, int, float, str, list of JSON, or dict of str to JSON."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a client asked for, as stored.

    `id` is the number of its event on the wire; `type` the `action` of the payload; `args` its arguments,
    the real ones when they are hidden from everybody else (`hidden`).
    """

    id: int
    type: str
    args: dict[str, JSON] = field(default_factory=dict)
    hidden: bool = False


class SupervisedProcess(Protocol):
    """A child process below a watchdog, which kills it with all its descendants when the worker is gone."""

    @property
    def pid(self) -> int:
        """The process id of the program, not of its watchdog."""

    @property
    def stdin(self) -> asyncio.StreamWriter: ...

    @property
    def stdout(self) -> asyncio.StreamReader:
        """Standard output and standard error, merged."""

    def signal_group(self, number: int) -> None:
        """Sends a signal to the program's process group; does nothing if it has ended."""

    async def wait(self) -> int:
        """Waits until the program has ended; gives its exit code (negative: killed by that signal)."""

    async def kill(self) -> None:
        """Kills the program and everything it started, wherever that went, and waits until all are gone."""


class RuntimeContext(Protocol):
    """What a runtime can do to its session. One per activation; useless once the activation is over."""

    session_id: UUID
    settings: Mapping[str, JSON]
    """The session's settings, keys in lower case."""
    secrets: Mapping[str, str]
    """The session's secrets by name (`llm_api_key`), deeper ones by path (`llm.api_key`). They are cut
    out of everything emitted. Later INITs may add to it and change values: see Runtime.secrets_changed()."""
    workspace: Path
    """A directory for this session's files. It survives passivation; it is not made until asked for."""

    @property
    def epoch(self) -> int:
        """Rises with each change of hands: a fencing token for what the runtime writes elsewhere."""

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
        """Stores one event (either an `observation` or an `action`) and sends it to everyone attached.

        `cause` is the number of the action that it answers; without one, the action being handled. Returns
        as soon as the event has its place in line; waits while too much is in line. Raises InvalidEvent if
        it cannot be JSON, StaleEpoch if this activation is over.
        """

    async def set_agent_state(self, state: str) -> None:
        """Emits `agent_state_changed`, unless that is the state already. States: see the protocol."""

    async def notify(self, notice: Mapping[str, JSON]) -> None:
        """Sends a notice (`{"notice": "delta", …}`) to everyone attached now; it is not stored."""

    def checkpoint(self, snapshot: JSON) -> None:
        """Sets what `start` will be given if this worker dies. It is stored in the same transaction as the
        end of the action being handled, or with the next event outside of one."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        scratch: Path | None = None,
    ) -> SupervisedProcess:
        """Starts a program below a watchdog. It gets exactly this environment, nothing of the server's.

        `scratch` is a directory of plain files that the watchdog removes after the last of its processes.
        """


class Runtime:
    """Base class of the runtimes a site writes. One instance serves one session, for one activation.

    All methods run on the worker's event loop and must not block it; BlockingRuntime is for code that does.
    An exception from any of them is a crash: the user is told, the runtime is closed, and started again from
    its last checkpoint within a budget.
    """

    retries_interrupted: bool = False
    """Whether an action cut off by the death of its worker may be handled again from the start, once."""

    secret_settings: tuple[str, ...] = ()
    """Settings that are secrets beside those that look like one: names, at any depth, or dotted paths."""

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        """`options` are the `OPTIONS` of this runtime's alias in the setting `RUNTIMES`."""
        self.context = context
        self.options = options

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> Iterator[str]:
        """Yield sentences on what is wrong with the OPTIONS of an entry of RUNTIMES, for the checks."""
        yield from ()

    @classmethod
    def is_isolated(cls, options: Mapping[str, Any]) -> bool:
        """Return whether its users, with these OPTIONS, are kept from the host that it runs on."""
        return True

    @property
    def busy(self) -> bool:
        """Whether it works on its own account, so that passivation should wait (at most MAX_BUSY)."""
        return False

    async def start(self, snapshot: JSON) -> None:
        """Gets ready, from what `passivate` or the last checkpoint gave, or from nothing (None)."""

    async def handle(self, action: Action) -> None:
        """Does what one action asks. Actions come one at a time, in order."""
        raise NotImplementedError(f"{type(self).__name__}.handle() must be written.")

    async def interrupt(self, action: Action) -> None:
        """Gets a `change_agent_state` at once, also while `handle` runs."""

    async def secrets_changed(self, names: Collection[str]) -> None:
        """Hears which of `context.secrets` are new, or have new values; also while `handle` runs."""

    async def passivate(self) -> JSON:
        """Gives the state to start from next time. `close` follows."""
        return None

    async def close(self) -> None:
        """Frees everything. Called exactly once, after `start` was called, whatever happened since."""


class BlockingRuntime(Runtime):
    """A runtime whose code blocks: write `do_start`, `do_handle`, `do_passivate` and `do_close`.

    All run in one thread of this runtime's, one at a time: each waits for the end of the one before, also if
    that was given up. From there `self.emit(...)` stores an event and returns when it has its place in line.
    `interrupt` still runs on the event loop: set a flag there, which `do_handle` reads.
    """

    def __init__(self, context: RuntimeContext, **options: Any) -> None:
        super().__init__(context, **options)
        self._thread = Threads(f"ohsessions-runtime-{context.session_id}")

    def do_start(self, snapshot: JSON) -> None:
        """See Runtime.start()."""

    def do_handle(self, action: Action) -> None:
        """See Runtime.handle()."""
        raise NotImplementedError(f"{type(self).__name__}.do_handle() must be written.")

    def do_passivate(self) -> JSON:
        """See Runtime.passivate()."""
        return None

    def do_close(self) -> None:
        """See Runtime.close(). Called when the thread is free, which may be late."""

    def emit(self, **event: Any) -> None:
        """See RuntimeContext.emit(); for the thread of the `do_` methods."""
        asyncio.run_coroutine_threadsafe(self.context.emit(**event), self._loop).result()

    async def start(self, snapshot: JSON) -> None:
        self._loop = asyncio.get_running_loop()
        await self._thread.call(self.do_start, snapshot)

    async def handle(self, action: Action) -> None:
        await self._thread.call(self.do_handle, action)

    async def passivate(self) -> JSON:
        return await self._thread.call(self.do_passivate)

    async def close(self) -> None:
        await self._thread.last_call(self.do_close)
