"""A RuntimeContext that records, for testing a runtime without a database."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from ohsessions.core.errors import InvalidEvent
from ohsessions.core.runtime import JSON, Action, Runtime, SupervisedProcess
from ohsessions.programs.supervisor import ProgramSupervisor

Event = dict[str, Any]


class RecordingContext:
    """A RuntimeContext that records everything the runtime emits, and starts real processes.

    `events` are as on the wire, without timestamps. Their ids count from 0, as in a session's log. They
    include the actions of `act`. `notices` are those of `notify`, `snapshot` is the last checkpoint. Leaving
    the context kills every process that was started through it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, JSON] | None = None,
        secrets: Mapping[str, str] | None = None,
        lease_seconds: float = 3600,
    ) -> None:
        self.session_id = uuid.uuid4()
        self.epoch = 1
        self.settings: Mapping[str, JSON] = settings or {}
        self._secrets = dict(secrets or {})
        self.secrets: Mapping[str, str] = MappingProxyType(self._secrets)
        self.workspace = directory / "workspace"
        self.events: list[Event] = []
        self.notices: list[Mapping[str, JSON]] = []
        self.snapshot: JSON = None
        self.agent_state = "init"
        self.supervisor = ProgramSupervisor(lease_seconds)
        self._handled: int | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.supervisor.kill_all()

    async def act(self, runtime: Runtime, type: str, /, *, hidden: bool = False, **args: JSON) -> Action:
        """Have the runtime handle an action, as the worker would; return the action once it is handled."""
        action = await self.store_action(type, args, hidden=hidden)
        self._handled = action.id
        try:
            await runtime.handle(action)
        finally:
            self._handled = None
        return action

    async def interrupt(self, runtime: Runtime, agent_state: str) -> None:
        """Send the runtime a `change_agent_state`."""
        await runtime.interrupt(await self.store_action("change_agent_state", {"agent_state": agent_state}))

    async def change_secrets(self, runtime: Runtime, **secrets: str) -> None:
        """Change secrets as a later INIT would, and notify the runtime."""
        self._secrets.update(secrets)
        await runtime.secrets_changed(set(secrets))

    async def store_action(self, type: str, args: Mapping[str, JSON], *, hidden: bool = False) -> Action:
        """Append an action of the user and return it, for tests that call the runtime themselves."""
        shown = {"hidden": True} if hidden else dict(args)
        number = await self._append({"source": "user", "message": "", "action": type, "args": shown})
        return Action(id=number, type=type, args=dict(args), hidden=hidden)

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
        """See RuntimeContext.emit()."""
        if (observation is None) == (action is None):
            raise InvalidEvent("An event is either an `observation` or an `action`; give one of them.")
        event: Event = {"source": source, "message": message}
        cause = self._handled if cause is None else cause
        if cause is not None:
            event["cause"] = cause
        if action is not None:
            event |= {"action": action, "args": dict(args or {})}
        else:
            event |= {"observation": observation, "content": content, "extras": dict(extras or {})}
        await self._append(event)

    async def set_agent_state(self, state: str) -> None:
        """See RuntimeContext.set_agent_state()."""
        if state != self.agent_state:
            self.agent_state = state
            await self.emit(
                observation="agent_state_changed", extras={"agent_state": state}, source="environment"
            )

    async def notify(self, notice: Mapping[str, JSON]) -> None:
        """See RuntimeContext.notify()."""
        self.notices.append(notice)

    def checkpoint(self, snapshot: JSON) -> None:
        """See RuntimeContext.checkpoint()."""
        self.snapshot = _as_stored(snapshot)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        scratch: Path | None = None,
    ) -> SupervisedProcess:
        """See RuntimeContext.spawn()."""
        return await self.supervisor.spawn(argv, env=env, cwd=cwd, scratch=scratch)

    async def wait_for_event(self, wanted: Callable[[Event], bool], timeout: float = 10) -> Event:
        """Return the first event, past or to come, for which `wanted` is true.

        Raise TimeoutError after `timeout` seconds.
        """
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: any(map(wanted, self.events)))
        return next(filter(wanted, self.events))

    def observations(self, kind: str, cause: int | None = None) -> list[Event]:
        """Return the observations of one kind so far; with `cause`, only those that answer that action."""
        return [
            event
            for event in self.events
            if event.get("observation") == kind and (cause is None or event.get("cause") == cause)
        ]

    async def _append(self, event: Event) -> int:
        event = {"id": len(self.events), **_as_stored(event)}
        self.events.append(event)
        async with self._news:
            self._news.notify_all()
        return int(event["id"])


def _as_stored(value: JSON) -> JSON:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"Not JSON: {error}") from error
