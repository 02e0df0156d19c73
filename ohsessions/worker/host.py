"""One activation of one session: its runtime, from the claim to the release.

A host is one task. It starts the runtime, passes actions to it (see actions), and ends in one of four ways:
passivated (the worker asked for it), crashed, closed by somebody else, or lost (another owner, or no lease).
In each case the runtime is closed and its processes are killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable

from django.utils.module_loading import import_string

from ohsessions import lifecycle, vault
from ohsessions.concurrency.tasks import cancel_all, to_the_end
from ohsessions.concurrency.threads import Threads
from ohsessions.conf import RuntimeEntry, conf
from ohsessions.core import wire
from ohsessions.core.errors import NotFed, RuntimeFailure, StaleEpoch, Unavailable, WireError
from ohsessions.core.faults import Fault
from ohsessions.core.runtime import Runtime
from ohsessions.lifecycle import Change, Claimed
from ohsessions.processes.membership import HOLD
from ohsessions.processes.store import Store
from ohsessions.snapshots import Snapshot
from ohsessions.worker.actions import Actions
from ohsessions.worker.calls import within
from ohsessions.worker.context import HostContext
from ohsessions.worker.outbox import Outbox
from ohsessions.worker.renewal import Renewal

logger = logging.getLogger(__name__)

BUSY_PAUSE = 0.1
"""Seconds between two looks at a busy runtime during a drain."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a runtime has to close before its processes are killed anyway."""
_unlocking = Threads("ohsessions-unlocking")


class SessionHost:
    """The host of one claimed session's runtime. `run` it as a task; it ends by itself."""

    def __init__(
        self,
        store: Store,
        claimed: Claimed,
        confirmed_at: float,
        on_ready: Callable[[SessionHost], None] = lambda host: None,
    ) -> None:
        """`confirmed_at`: see Membership. `on_ready` is called once the runtime is ready, if it ever is."""
        self.session_id = claimed.session_id
        self._on_ready = on_ready
        self._store = store
        self._claimed = claimed
        self._confirmed_at = confirmed_at
        self._outbox = Outbox(store, claimed.session_id, claimed.epoch)
        self._runtime: Runtime | None = None
        self._context: HostContext | None = None
        self._renewal = Renewal(store)
        self._actions = Actions(store, claimed, self._outbox, self._renewal, self._check_lease)
        self._passivating = asyncio.Event()
        self._passivation: Change
        """The change of the passivation's claim."""
        self._claiming_passivation = asyncio.Lock()
        self._writing: asyncio.Task[None]
        self.ready = False

    @property
    def epoch(self) -> int:
        return self._outbox.epoch

    @property
    def busy(self) -> bool:
        try:
            return self._runtime is not None and bool(self._runtime.busy)
        except Exception as error:
            # The error must not keep the worker from looking after other sessions.
            text = self._describe(error)
            logger.warning("Session %s: busy: %s", self.session_id, text, extra={"verb": "busy_failed"})
            return False

    @property
    def is_passivating(self) -> bool:
        """True if the epoch is changing, or has changed for the last time."""
        return self._claiming_passivation.locked() or self._passivating.is_set()

    def wake(self) -> None:
        """Look for new actions in the log."""
        self._actions.wake()

    def notice(self, last_number: int) -> None:
        """Wake the host if it has not read up to `last_number`, the log's last action."""
        self._actions.notice(last_number)

    def notice_secrets(self, version: int) -> None:
        """Read the session's secrets again if the host does not know this version yet."""
        self._renewal.notice(version)

    def feed(self, confirmed_at: float) -> None:
        """Feed the watchdogs: the worker's lease was renewed by a request sent at this monotonic time."""
        self._confirmed_at = confirmed_at
        if self._context is not None:
            self._context.processes.feed(confirmed_at)

    async def run(self) -> None:
        """Run the whole activation."""
        self._writing = asyncio.create_task(self._outbox.run(), name=f"session {self.session_id} outbox")
        try:
            await self._start()
            await self._serve()
            await self._passivate()
        except (StaleEpoch, asyncio.CancelledError):
            raise
        except NotFed as error:
            # The worker's lease has run out. The runtime is not at fault.
            raise StaleEpoch from error
        except Exception as error:
            await self._crash(error)
        finally:
            # Reconciliation cancels this task again in each round until it ends.
            await to_the_end(self._finish(), f"the end of session {self.session_id}")

    async def _finish(self) -> None:
        await self._close()
        self._outbox.end()
        await cancel_all([self._writing])

    # Starting

    async def _start(self) -> None:
        claimed = self._claimed
        row = (claimed.secrets_version, claimed.secrets, claimed.settings, claimed.runtime)
        known = await _unlocking.call(vault.unlock, *row)
        self._context = HostContext(self._store, claimed, known, self._outbox, self._confirmed_at)
        entry = conf.RUNTIMES.get(self._claimed.runtime)
        if entry is None:
            reason = f"its runtime {self._claimed.runtime!r} is not in the setting RUNTIMES any more"
            raise RuntimeFailure("start_failed", reason)
        await within(conf.START_TIMEOUT, "its start", self._rehydrate(entry, self._context))
        await self._outbox.flush()
        await self._store.change_patiently(lifecycle.run, self.session_id, self.epoch)
        self.ready = True
        self._on_ready(self)
        logger.info("Session %s runs", self.session_id, extra={"verb": "running"})

    async def _rehydrate(self, entry: RuntimeEntry, context: HostContext) -> None:
        snapshot = await context.load(self._claimed.snapshot)
        runtime: Runtime = import_string(entry["BACKEND"])(context, **entry.get("OPTIONS", {}))
        self._runtime = runtime
        await runtime.start(snapshot)

    # Serving

    async def _serve(self) -> None:
        """Work until passivation is asked for. Raise the runtime's error, or StaleEpoch."""
        assert self._runtime is not None
        assert self._context is not None
        jobs = {
            "log": self._actions.read(self._runtime, self._context),
            "actions": self._actions.handle(self._runtime, self._context),
            "secrets": self._renewal.run(self._runtime, self._context),
            "end": self._wait_passivating(),
        }
        tasks = [
            asyncio.create_task(job, name=f"session {self.session_id} {name}") for name, job in jobs.items()
        ]
        try:
            done, _ = await asyncio.wait([*tasks, self._writing], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except asyncio.CancelledError:
            # The lease may be over. The last events of an answer must be stored together with the mark of
            # their action, or not at all: the next owner relies on the mark.
            self._outbox.end()
            raise
        finally:
            self._actions.end()
            await cancel_all(tasks)

    async def _wait_passivating(self) -> None:
        await self._passivating.wait()

    def _check_lease(self) -> None:
        """Raise StaleEpoch if the worker's lease may be over.

        A process that stood still must begin nothing when it goes on: another worker may own the session.
        """
        if time.monotonic() >= self._confirmed_at + HOLD * conf.LEASE_TTL:
            raise StaleEpoch

    # Ending

    async def try_passivate(self, reason: str = "") -> bool:
        """Claim the passivation of this session if it is due, or for `reason`; `run` then passivates it.

        Return True if the session is being passivated, by this call or an earlier one. Raise StaleEpoch.
        """
        if not self.ready:
            return False
        async with self._claiming_passivation:
            if self._passivating.is_set():
                return True
            async with self._outbox.paused():
                change = await self._claim_passivation(reason)
                if change is None:
                    return False
                self._outbox.epoch = change.epoch
                self._passivation = change
                self._passivating.set()
        logger.info(
            "Session %s passivates: %s", self.session_id, change.reason, extra={"verb": "passivating"}
        )
        return True

    async def _claim_passivation(self, reason: str) -> Change | None:
        """Claim the passivation; repeat this once if the answer was lost.

        A claim that was committed returns its change again.
        """
        claim = lifecycle.claim_passivation
        try:
            return await self._store.change(claim, self.session_id, self.epoch, busy=self.busy, reason=reason)
        except Unavailable:
            return await self._store.change(claim, self.session_id, self.epoch, busy=self.busy, reason=reason)

    async def drain(self, reason: str, limit: float) -> bool:
        """Begin no further action, wait up to `limit` seconds for the current one, and claim the passivation.

        Return True if the session is being passivated, whichever call claimed that. Return False if the
        activation must be cut off. Raise StaleEpoch.
        """
        resting = asyncio.create_task(self._rest(), name=f"session {self.session_id} rests")
        # A session that is passivated meanwhile never comes to rest.
        passivating = asyncio.create_task(self._passivating.wait(), name="its passivation")
        try:
            done, _ = await asyncio.wait(
                [resting, passivating], timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await cancel_all([resting, passivating])
        return bool(done) and await self.try_passivate(reason)

    async def _rest(self) -> None:
        await self._actions.rest()
        while self.busy:  # noqa: ASYNC110 - a runtime has no event for it
            await asyncio.sleep(BUSY_PAUSE)

    async def _passivate(self) -> None:
        assert self._runtime is not None
        assert self._context is not None
        snapshot, problem = None, ""
        try:
            await self._end_cut_off_action()
            saving = self._save(self._runtime, self._context)
            snapshot = await within(conf.PASSIVATE_TIMEOUT, "saving its state", saving)
        except Exception as error:
            fault = Fault("its state was not saved", f"{self._describe(error)}; its last checkpoint counts")
            problem = fault.reason
            logger.warning("Session %s: %s", self.session_id, problem, extra={"verb": "passivate_failed"})
        # The processes must be gone before another worker can start the session.
        await self._close()
        await self._outbox.flush()
        # Give up the actions that were pending at the claim. The next activation handles later ones.
        give_up = self._passivation.head if self._passivation.gives_up else -1
        change = await self._store.change_patiently(
            lifecycle.release, self.session_id, self.epoch, snapshot, problem, give_up=give_up
        )
        logger.info("Session %s is %s", self.session_id, change.state, extra={"verb": change.state})

    @staticmethod
    async def _save(runtime: Runtime, context: HostContext) -> Snapshot:
        return await context.store(await runtime.passivate())

    async def _end_cut_off_action(self) -> None:
        """Store an error event for an action that the passivation cuts off, and mark the action as handled.

        A passivation comes in the middle of an action if an operator asks for it, or when MAX_BUSY is over.
        """
        assert self._context is not None
        number = self._actions.current
        if number is not None:
            message = "This action was cut off by an operator, who put the session to sleep."
            if self._passivation.gives_up:
                message = (
                    "This action was cut off: nobody was attached, and it was still running when MAX_BUSY"
                    f" ({conf.MAX_BUSY:g} s) was over. The session sleeps."
                )
            await self._context.tell("interrupted", message, number)
            await self._outbox.flush(handled=number)

    async def _crash(self, error: Exception) -> None:
        fault = Fault("its runtime broke" if self.ready else "it could not start", self._describe(error))
        trace = self._redacted("".join(traceback.format_exception(error)))
        logger.warning("Session %s: %s\n%s", self.session_id, fault.reason, trace, extra={"verb": "crashed"})
        await self._close()
        await self._tell_of_crash(fault)
        change = await self._store.change_patiently(
            lifecycle.crash, self.session_id, self.epoch, fault.reason
        )
        if not self.ready:
            failed = WireError(503, "start_failed", f"The session is {change.state}: {fault.public}.")
            self._store.announce_error(self.session_id, wire.error_event(failed))

    async def _tell_of_crash(self, fault: Fault) -> None:
        """Store an error event about the crash, and mark the action or interrupt under way as done.

        It is not tried again: it may be what breaks the runtime.
        """
        if self._context is None or not self.ready:
            return
        try:
            current, interrupting = self._actions.current, self._actions.interrupting
            cause = interrupting if current is None else current
            await self._context.tell("crashed", f"Sorry, {fault.public}.", cause)
            await self._outbox.flush(handled=current, interrupted=interrupting)
        except WireError as error:
            # The write itself may be what broke. The crash is stored all the same.
            logger.warning("Session %s: not told: %s", self.session_id, error, extra={"verb": "not_told"})

    async def _close(self) -> None:
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            try:
                await within(CLOSE_TIMEOUT, "closing", runtime.close())
            except Exception as error:
                text = self._describe(error)
                logger.warning("Session %s: %s", self.session_id, text, extra={"verb": "close_failed"})
        if self._context is not None:
            await self._context.processes.kill_all()

    def _redacted(self, text: str) -> str:
        return self._context.redact(text) if self._context is not None else text

    def _describe(self, error: BaseException) -> str:
        """Return one line about an error, for operators, without traceback and secrets."""
        name, text = type(error).__name__, self._redacted(str(error)).partition("\n")[0]
        return (f"{name}: {text}" if text else name)[:200]
