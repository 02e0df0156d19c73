"""The actions that a session's runtime gets: one at a time, in the order of the log; interrupts at once.

The marks of actions that were begun, handled or delivered are stored with the session, so that the next owner
knows them. How an activation begins and ends, or crashes, is not this module's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ohsessions import journal
from ohsessions.core import wire
from ohsessions.core.runtime import Action, Runtime
from ohsessions.lifecycle import Claimed
from ohsessions.processes.store import Store
from ohsessions.worker.calls import contained
from ohsessions.worker.context import HostContext
from ohsessions.worker.outbox import Outbox
from ohsessions.worker.renewal import Renewal


class Actions:
    """The actions of one activation. `check_lease` raises StaleEpoch if no action may be begun any more."""

    def __init__(
        self,
        store: Store,
        claimed: Claimed,
        outbox: Outbox,
        renewal: Renewal,
        check_lease: Callable[[], None],
    ) -> None:
        self.current: int | None = None
        """The action that is being handled."""
        self.interrupting: int | None = None
        """The interrupt that is being delivered."""
        self._store = store
        self._claimed = claimed
        self._outbox = outbox
        self._renewal = renewal
        self._check_lease = check_lease
        self._work = asyncio.Event()
        self._queue: deque[int] = deque()
        self._queued = asyncio.Event()
        self._read_number = claimed.handled_number
        self._may_begin = asyncio.Event()
        self._may_begin.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._over = False

    def wake(self) -> None:
        """Make read() look for new actions in the log."""
        self._work.set()

    def notice(self, last_number: int) -> None:
        """Make read() look into the log if it has not read up to `last_number`, the log's last action."""
        if last_number > self._read_number:
            self._work.set()

    async def rest(self) -> None:
        """Begin no further action, and wait for the end of the action under way."""
        self._may_begin.clear()
        await self._idle.wait()

    def end(self) -> None:
        """Begin no further action, even if a cancelled handler returns as if it had not been cancelled."""
        self._over = True

    async def read(self, runtime: Runtime, context: HostContext) -> None:
        """Put actions from the log into the queue, and deliver interrupts to the runtime, as they come."""
        self._work.set()
        while True:
            await self._work.wait()
            self._work.clear()
            read = self._store.read_patiently
            found = await read(journal.new_actions, self._claimed.session_id, self._read_number)
            for number, kind in found:
                self._read_number = number
                if kind not in wire.INTERRUPTS:
                    self._queue.append(number)
                    self._queued.set()
                elif number > self._claimed.interrupted_number:
                    await self._interrupt(runtime, context, number)

    async def _interrupt(self, runtime: Runtime, context: HostContext, number: int) -> None:
        try:
            action = await self._load(runtime, context, number)
        except Exception:
            self.interrupting = number  # an interrupt that cannot be read is not tried again
            raise
        # Set after the read: else a crash of the action under way would mark the interrupt as delivered.
        self.interrupting = number
        await contained(runtime.interrupt(action))
        context.reveal(number)
        await self._outbox.flush(interrupted=number)
        self.interrupting = None

    async def handle(self, runtime: Runtime, context: HostContext) -> None:
        """Pass the actions in the queue to the runtime, as they come."""
        while not self._over:
            await self._queued.wait()
            while self._queue and not self._over:
                await self._may_begin.wait()
                self._idle.clear()
                await self._handle(runtime, context, self._queue.popleft())
                self._idle.set()
            self._queued.clear()

    async def _handle(self, runtime: Runtime, context: HostContext, number: int) -> None:
        self.current = context.cause = number
        if self._was_cut_off(runtime, number):
            message = "This action was cut off when its worker stopped. Send it again if it is still needed."
            await context.tell("interrupted", message, number)
        else:
            action = await self._load(runtime, context, number)
            self._outbox.in_action = True
            await self._outbox.flush(started=number)
            self._check_lease()
            await contained(runtime.handle(action))
            context.reveal(number)
        await self._outbox.flush(handled=number)
        self._outbox.in_action = False
        self.current = context.cause = None

    async def _load(self, runtime: Runtime, context: HostContext, number: int) -> Action:
        """Return an action, once the activation knows the secrets that the action may contain."""
        read = self._store.read_patiently
        action, secrets_version = await read(journal.read_action, self._claimed.session_id, number)
        await self._renewal.renew(runtime, context, secrets_version)
        context.hide(action)
        return action

    def _was_cut_off(self, runtime: Runtime, number: int) -> bool:
        """Return True if an earlier activation began this action and it must not be begun again."""
        if number != self._claimed.started_number:
            return False
        return not runtime.retries_interrupted or self._claimed.attempts >= 2
