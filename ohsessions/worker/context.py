"""The context of a hosted runtime: RuntimeContext over the outbox of its activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ohsessions import snapshots, vault
from ohsessions.conf import conf
from ohsessions.core import wire
from ohsessions.core.errors import InvalidEvent, RuntimeFailure, WireError
from ohsessions.core.redaction import Redactor
from ohsessions.core.runtime import JSON, Action, SupervisedProcess
from ohsessions.core.secret_settings import cut_out, texts_in
from ohsessions.lifecycle import Claimed
from ohsessions.processes.membership import HOLD
from ohsessions.processes.store import Store
from ohsessions.programs.supervisor import ProgramSupervisor
from ohsessions.worker.outbox import Outbox


class HostContext:
    """See core.runtime.RuntimeContext."""

    def __init__(
        self,
        store: Store,
        claimed: Claimed,
        outbox: Outbox,
        confirmed_at: float,
    ) -> None:
        """`confirmed_at`: the time at which the last confirmed renewal of the worker's lease was sent.

        It knows no secrets before the first `renew`.
        """
        self.session_id = claimed.session_id
        self.settings: Mapping[str, JSON] = claimed.settings
        self._secrets: dict[str, str] = {}
        self.secrets: Mapping[str, str] = MappingProxyType(self._secrets)
        self.secrets_version = 0
        self.workspace = Path(conf.WORKSPACE_ROOT) / str(claimed.session_id)
        self.cause: int | None = None
        self.programs = ProgramSupervisor(lease_seconds=HOLD * conf.LEASE_TTL, confirmed_at=confirmed_at)
        self._store = store
        self._outbox = outbox
        self._redactor = Redactor(())
        self._hidden: dict[int, Redactor] = {}
        self._agent_state = "loading"

    @property
    def epoch(self) -> int:
        return self._outbox.epoch

    async def emit(self, *, source: str = "agent", cause: int | None = None, **event: Any) -> None:
        cause = self.cause if cause is None else cause
        clean = self._cleaned(event)
        body = wire.event_body(source=source, cause=cause, **clean)
        _check_size(body)
        await self._outbox.put(source, str(event.get("observation") or event.get("action")), body)

    async def set_agent_state(self, state: str) -> None:
        if state != self._agent_state:
            self._agent_state = state
            await self._outbox.put("environment", "agent_state_changed", wire.agent_state(state))

    async def notify(self, notice: Mapping[str, JSON]) -> None:
        clean = self._cleaned(dict(notice))
        try:
            _check_size(wire.check_json(clean))
        except WireError as error:
            raise InvalidEvent(f"The notice cannot be sent as JSON. {error.message}") from error
        await self._store.wakeups.notice(self.session_id, clean)

    def _cleaned(self, value: dict[str, JSON]) -> dict[str, JSON]:
        """Return the value without secrets. Raise InvalidEvent if it nests too deeply or contains itself."""
        clean = value
        try:
            for redactor in self._redactors():
                clean = redactor.redact_json(clean)
        except RecursionError as error:
            raise InvalidEvent("The event or notice is nested too deeply, or contains itself.") from error
        return clean

    def checkpoint(self, snapshot: JSON) -> None:
        _check_snapshot(snapshot)
        self._outbox.checkpoint = (snapshot,)

    async def store(self, snapshot: JSON) -> snapshots.Snapshot:
        """Prepare a snapshot for the session's row. Raise InvalidEvent if it is not JSON."""
        _check_snapshot(snapshot)
        return await snapshots.astore(self.session_id, snapshot)

    async def load(self, snapshot: snapshots.Snapshot) -> JSON:
        """Return the value of a snapshot. Raise RuntimeFailure (`snapshot_lost`) if it cannot be read."""
        try:
            return await snapshots.aload(snapshot)
        except WireError as error:
            reason = "its snapshot cannot be decrypted: put the key that encrypted it back into SECRETS_KEYS"
            raise RuntimeFailure("snapshot_lost", reason) from error
        except Exception as error:
            reason = f"its snapshot cannot be read: {type(error).__name__}"
            raise RuntimeFailure("snapshot_lost", reason) from error

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        scratch: Path | None = None,
    ) -> SupervisedProcess:
        return await self.programs.spawn(argv, env=env, cwd=cwd, scratch=scratch)

    def redact(self, text: str) -> str:
        """Return a text without the session's secrets."""
        for redactor in self._redactors():
            text = redactor.redact(text)
        return text

    def _redactors(self) -> list[Redactor]:
        return [self._redactor, *self._hidden.values()]

    def renew(self, known: vault.Known) -> set[str]:
        """Take over newer secrets; return the names of the changed ones. Old values are still cut out."""
        changed = {name for name, value in known.values.items() if self._secrets.get(name) != value}
        self._redactor.add(known.texts)
        self._secrets.update(known.values)
        self.secrets_version = known.version
        return changed

    def hide(self, action: Action) -> None:
        """Cut the arguments of a hidden action out of events, and of the text of a crash, until reveal()."""
        if action.hidden:
            self._hidden[action.id] = Redactor(cut_out(texts_in(action.args)))

    def reveal(self, number: int) -> None:
        """Stop cutting out the arguments of the action with this number: it has been handled."""
        self._hidden.pop(number, None)

    async def tell(self, reason: str, message: str, cause: int | None) -> None:
        """Store an error event in the session's log, for its users."""
        await self._outbox.put("environment", "error", wire.stored_error(reason, message, cause))


def _check_size(text: str) -> None:
    most = wire.most_event_bytes(conf.MAX_ACTION_BYTES)
    if len(text.encode()) > most:
        raise InvalidEvent(f"Events and notices may have at most {most} bytes as JSON.")


def _check_snapshot(snapshot: JSON) -> None:
    try:
        wire.encode(snapshot)  # first: it refuses a value that contains itself
        wire.check_json(snapshot)
    except (TypeError, ValueError, RecursionError, WireError) as error:
        raise InvalidEvent(f"The snapshot cannot be stored as JSON: {error}.") from error
