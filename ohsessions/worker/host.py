"""One activation of one session: its runtime, from the claim to the release.

A host is one task. It starts the runtime, passes actions to it (see actions), and ends in one of four ways:
passivated (the worker asked for it), crashed, closed by somebody else, or lost (another owner, or no lease).
In each case the runtime is closed and its programs are killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from ohsessions import lifecycle
from ohsessions.concurrency.tasks import cancel_all, to_the_end
from ohsessions.conf import conf
from ohsessions.core import phases, wire
from ohsessions.core.errors import NotFed, StaleEpoch, Unavailable, WireError
from ohsessions.core.faults import Fault
from ohsessions.core.runtime import Runtime
from ohsessions.lifecycle import Change, Claimed
from ohsessions.processes.membership import HOLD
from ohsessions.processes.store import Store
from ohsessions.worker.actions import Actions
from ohsessions.worker.activation import Activation
from ohsessions.worker.host_phase import MOVES, HostPhase
from ohsessions.worker.outbox import Outbox
from ohsessions.worker.renewal import Renewal

logger = logging.getLogger(__name__)

BUSY_PAUSE = 0.1
"""Seconds between two looks at a busy runtime during a drain."""


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
        self.phase = HostPhase.STARTING
        """Only _move() changes it."""
        self._on_ready = on_ready
        self._store = store
        self._confirmed_at = confirmed_at
        self._outbox = Outbox(store, claimed.session_id, claimed.epoch)
        self._activation = Activation(store, claimed, self._outbox, confirmed_at)
        self._context = self._activation.context
        self._renewal = Renewal(store)
        self._actions = Actions(store, claimed, self._outbox, self._renewal, self._check_lease)
        self._passivating = asyncio.Event()
        """Set when the phase becomes PASSIVATING."""
        self._passivation: Change
        """The change of the passivation's claim."""
        self._claiming_passivation = asyncio.Lock()
        self._writing: asyncio.Task[None]

    @property
    def epoch(self) -> int:
        return self._outbox.epoch

    @property
    def is_passivating(self) -> bool:
        """True if the epoch is changing, or has changed for the last time."""
        return self.phase in (HostPhase.CLAIMING, HostPhase.PASSIVATING)

    def _move(self, phase: HostPhase) -> None:
        """Change the phase. No other code does so. Raise IllegalMove."""
        self.phase = phases.move(MOVES, self.phase, phase)
        if phase is HostPhase.PASSIVATING:
            self._passivating.set()

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
        self._context.programs.feed(confirmed_at)

    async def run(self) -> None:
        """Run the whole activation."""
        self._writing = asyncio.create_task(self._outbox.run(), name=f"session {self.session_id} outbox")
        try:
            runtime = await self._start()
            await self._serve(runtime)
            await self._passivate(runtime)
        except (StaleEpoch, asyncio.CancelledError):
            raise
        except NotFed as error:
            # The worker's lease has run out. The runtime is not at fault.
            raise StaleEpoch from error
        except Exception as error:
            await self._crash(error)
        finally:
            try:
                # Reconciliation cancels this task again in each round until it ends.
                await to_the_end(self._finish(), f"the end of session {self.session_id}")
            finally:
                self._move(HostPhase.ENDED)

    async def _finish(self) -> None:
        await self._activation.close()
        self._outbox.end()
        await cancel_all([self._writing])

    # Starting

    async def _start(self) -> Runtime:
        runtime = await self._activation.start()
        await self._outbox.flush()
        await self._store.change_patiently(lifecycle.run, self.session_id, self.epoch)
        self._move(HostPhase.RUNNING)
        self._on_ready(self)
        logger.info("Session %s runs", self.session_id, extra={"verb": "running"})
        return runtime

    # Serving

    async def _serve(self, runtime: Runtime) -> None:
        """Work until passivation is asked for. Raise the runtime's error, or StaleEpoch."""
        jobs: dict[str, Coroutine[Any, Any, object]] = {
            "log": self._actions.read(runtime, self._context),
            "actions": self._actions.handle(runtime, self._context),
            "secrets": self._renewal.run(runtime, self._context),
            "end": self._passivating.wait(),
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
        async with self._claiming_passivation:
            if self.phase is HostPhase.RUNNING:
                await self._claim_passivation(reason)
            return self._passivating.is_set()

    async def _claim_passivation(self, reason: str) -> None:
        """Let a transaction decide whether the session passivates. Nothing else is written meanwhile."""
        self._move(HostPhase.CLAIMING)
        try:
            async with self._outbox.paused():
                change = await self._try_claim(reason)
                if change is None or self.phase is HostPhase.ENDED:
                    return
                self._outbox.epoch = change.epoch
                self._passivation = change
                self._move(HostPhase.PASSIVATING)
        finally:
            if self.phase is HostPhase.CLAIMING:
                self._move(HostPhase.RUNNING)
        logger.info(
            "Session %s passivates: %s", self.session_id, change.reason, extra={"verb": "passivating"}
        )

    async def _try_claim(self, reason: str) -> Change | None:
        """Claim the passivation; repeat this once if the answer was lost.

        A claim that was committed returns its change again.
        """
        claim, own, activation = lifecycle.claim_passivation, (self.session_id, self.epoch), self._activation
        try:
            return await self._store.change(claim, *own, busy=activation.busy, reason=reason)
        except Unavailable:
            return await self._store.change(claim, *own, busy=activation.busy, reason=reason)

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
        while self._activation.busy:  # noqa: ASYNC110 - a runtime has no event for it
            await asyncio.sleep(BUSY_PAUSE)

    async def _passivate(self, runtime: Runtime) -> None:
        snapshot, problem = None, ""
        try:
            await self._end_cut_off_action()
            snapshot = await self._activation.save(runtime)
        except Exception as error:
            reason = f"{self._activation.describe(error)}; its last checkpoint counts"
            problem = Fault("its state was not saved", reason).reason
            logger.warning("Session %s: %s", self.session_id, problem, extra={"verb": "passivate_failed"})
        # The programs must be gone before another worker can start the session.
        await self._activation.close()
        await self._outbox.flush()
        # Give up the actions that were pending at the claim. The next activation handles later ones.
        give_up = self._passivation.head if self._passivation.gives_up else -1
        change = await self._store.change_patiently(
            lifecycle.release, self.session_id, self.epoch, snapshot, problem, give_up=give_up
        )
        logger.info("Session %s is %s", self.session_id, change.state, extra={"verb": change.state})

    async def _end_cut_off_action(self) -> None:
        """Store an error event for an action that the passivation cuts off, and mark the action as handled.

        A passivation comes in the middle of an action if an operator asks for it, or when MAX_BUSY is over.
        """
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
        was_ready = self.phase is not HostPhase.STARTING
        what = "its runtime broke" if was_ready else "it could not start"
        fault, trace = Fault(what, self._activation.describe(error)), self._activation.trace(error)
        logger.warning("Session %s: %s\n%s", self.session_id, fault.reason, trace, extra={"verb": "crashed"})
        await self._activation.close()
        if was_ready:
            await self._tell_of_crash(fault)
        change = await self._store.change_patiently(
            lifecycle.crash, self.session_id, self.epoch, fault.reason
        )
        if not was_ready:
            failed = WireError(503, "start_failed", f"The session is {change.state}: {fault.public}.")
            self._store.announce_error(self.session_id, wire.error_event(failed))

    async def _tell_of_crash(self, fault: Fault) -> None:
        """Store an error event about the crash, and mark the action or interrupt under way as done.

        It is not tried again: it may be what breaks the runtime.
        """
        try:
            current, interrupting = self._actions.current, self._actions.interrupting
            cause = interrupting if current is None else current
            await self._context.tell("crashed", f"Sorry, {fault.public}.", cause)
            await self._outbox.flush(handled=current, interrupted=interrupting)
        except WireError as error:
            # The write itself may be what broke. The crash is stored all the same.
            logger.warning("Session %s: not told: %s", self.session_id, error, extra={"verb": "not_told"})
