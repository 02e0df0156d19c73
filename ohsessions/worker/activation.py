"""The runtime of one activation and its context: made and started, saved, and closed, each within its limit.

Errors of a runtime are described here, without the session's secrets. When a runtime starts, works and ends
is the business of its host.
"""

from __future__ import annotations

import logging
import traceback

from django.utils.module_loading import import_string

from ohsessions import vault
from ohsessions.concurrency.threads import Threads
from ohsessions.conf import RuntimeEntry, conf
from ohsessions.core.errors import RuntimeFailure
from ohsessions.core.runtime import Runtime
from ohsessions.lifecycle import Claimed
from ohsessions.processes.store import Store
from ohsessions.snapshots import Snapshot
from ohsessions.worker.calls import within
from ohsessions.worker.context import HostContext
from ohsessions.worker.outbox import Outbox

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""Seconds that a runtime has to close before its programs are killed anyway."""
_unlocking = Threads("ohsessions-unlocking")


class Activation:
    """The runtime of one activation, from its start to `close`, and its context."""

    def __init__(self, store: Store, claimed: Claimed, outbox: Outbox, confirmed_at: float) -> None:
        self.context = HostContext(store, claimed, outbox, confirmed_at)
        self._claimed = claimed
        self._runtime: Runtime | None = None
        """The runtime from its making on, whether it is ready or not, until it is closed."""

    @property
    def busy(self) -> bool:
        try:
            return self._runtime is not None and bool(self._runtime.busy)
        except Exception as error:
            # The error must not keep the worker from looking after other sessions.
            self._warn("busy: " + self.describe(error), "busy_failed")
            return False

    async def start(self) -> Runtime:
        """Read the secrets, make the runtime, start it and return it. Raise RuntimeFailure, or its error."""
        claimed = self._claimed
        row = (claimed.secrets_version, claimed.secrets, claimed.settings, claimed.runtime)
        self.context.renew(await _unlocking.call(vault.unlock, *row))
        entry = conf.RUNTIMES.get(claimed.runtime)
        if entry is None:
            reason = f"its runtime {claimed.runtime!r} is not in the setting RUNTIMES any more"
            raise RuntimeFailure("start_failed", reason)
        return await within(conf.START_TIMEOUT, "its start", self._rehydrate(entry))

    async def _rehydrate(self, entry: RuntimeEntry) -> Runtime:
        snapshot = await self.context.load(self._claimed.snapshot)
        runtime: Runtime = import_string(entry["BACKEND"])(self.context, **entry.get("OPTIONS", {}))
        self._runtime = runtime
        await runtime.start(snapshot)
        return runtime

    async def save(self, runtime: Runtime) -> Snapshot:
        """Return a snapshot of the runtime that `start` has returned. Raise TimeoutError, or its error."""
        return await within(conf.PASSIVATE_TIMEOUT, "saving its state", self._save(runtime))

    async def _save(self, runtime: Runtime) -> Snapshot:
        return await self.context.store(await runtime.passivate())

    async def close(self) -> None:
        """Close the runtime, if there is one that is not closed yet, and kill its programs."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            try:
                await within(CLOSE_TIMEOUT, "closing", runtime.close())
            except Exception as error:
                self._warn(self.describe(error), "close_failed")
        await self.context.programs.kill_all()

    def describe(self, error: BaseException) -> str:
        """Return one line about an error, for operators, without traceback and secrets."""
        name, text = type(error).__name__, self.context.redact(str(error)).partition("\n")[0]
        return (f"{name}: {text}" if text else name)[:200]

    def trace(self, error: BaseException) -> str:
        """Return the traceback of an error, without secrets."""
        return self.context.redact("".join(traceback.format_exception(error)))

    def _warn(self, text: str, verb: str) -> None:
        logger.warning("Session %s: %s", self._claimed.session_id, text, extra={"verb": verb})
