"""The gateway's subscriptions: one channel of its own in the channel layer, in the group of each session.

Membership belongs to the process, not to a connection. The layer may fail, hang, or forget. So nothing here
raises: `renew` tries a failed subscription again, and until then reconciliation delivers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable
from typing import Any, Protocol
from uuid import UUID

from channels.layers import get_channel_layer

from ohsessions.concurrency.backoff import Backoff
from ohsessions.concurrency.tasks import cancellable
from ohsessions.wakeups import Hearing, session_group

logger = logging.getLogger(__name__)

LAYER_TIMEOUT = 2.0
"""The most seconds to wait for a layer that hangs."""
LAYER_PAUSE, LAYER_PAUSE_MOST = 0.5, 4.0
"""Seconds to wait before listening again to a layer that failed: the first pause and the longest."""
RENEW_EVERY = 3600.0
"""Seconds after which a membership is renewed: the Redis layers forget it after a day."""
IN_DOUBT = float("-inf")


class SessionIds(Container[UUID], Iterable[UUID], Protocol):
    """The sessions to listen to. The collection may change at any time."""


class Subscriptions:
    """The subscriptions to the `wanted` sessions. `hear` is called with each message of the layer."""

    def __init__(self, wanted: SessionIds, hear: Callable[[dict[str, Any]], None]) -> None:
        self._wanted = wanted
        self._hear = hear
        self._layer: Any = get_channel_layer()
        self._hearing = Hearing(self._layer)
        self._renewing = asyncio.Lock()
        self._channel: str | None = None
        self._since: dict[UUID, float] = {}
        """The time at which each group was joined; IN_DOUBT if it is not known whether it was."""

    def __contains__(self, session_id: UUID) -> bool:
        return self._since.get(session_id, IN_DOUBT) > IN_DOUBT

    async def try_subscribe(self, session_id: UUID) -> bool:
        """Join the session's group, if that is not done yet. Return True if the gateway is a member now."""
        if self._channel is None:
            return False
        if session_id not in self:
            self._since[session_id] = IN_DOUBT
            if await self._try(self._layer.group_add, session_id):
                self._since[session_id] = time.monotonic()
        return session_id in self

    def doubt(self, session_id: UUID) -> None:
        """Doubt a membership, since the group did not bring a message. Redis may have lost it, and reports
        nothing when it is flushed. `renew` joins the group again, which changes nothing for a member."""
        self._since[session_id] = IN_DOUBT

    async def renew(self) -> None:
        """Join the groups that are wanted and leave the others; stop when the layer fails.

        Two tasks call it: the one that listens, and one that renews at intervals.
        """
        async with self._renewing:
            await self._renew()

    async def _renew(self) -> None:
        old = time.monotonic() - RENEW_EVERY
        for session_id in list(self._wanted):
            if self._since.get(session_id, IN_DOUBT) <= old:
                self._since[session_id] = IN_DOUBT
                if not await self.try_subscribe(session_id):
                    return
        for session_id in [one for one in self._since if one not in self._wanted]:
            self._since.pop(session_id, None)
            left = await self._try(self._layer.group_discard, session_id)
            if session_id in self._wanted:
                # Wanted again meanwhile: the layer may have joined first and discarded last.
                self._since[session_id] = IN_DOUBT
                await self.try_subscribe(session_id)
            if not left:
                return

    async def end(self) -> None:
        """Leave all groups for good, within LAYER_TIMEOUT: the Redis layers would keep them for a day."""
        channel, self._channel = self._channel, None
        try:
            async with asyncio.timeout(LAYER_TIMEOUT):
                for session_id in list(self._since):
                    await cancellable(self._layer.group_discard(session_group(session_id), channel))
        except Exception as error:
            logger.debug("The gateway did not leave its groups, which the layer forgets later: %r", error)
        self._since.clear()

    async def listen(self) -> None:
        """Listen for ever, and pass each message to `hear`."""
        backoff = Backoff(LAYER_PAUSE, LAYER_PAUSE_MOST)
        while True:
            try:
                self._channel = self._channel or await self._layer.new_channel("ohsessions.gateway.")
                self._since = dict.fromkeys(self._since, IN_DOUBT)
                await self.renew()
                while True:
                    self._hear_safely(await self._hearing.receive(self._channel))
                    backoff.reset()
            except Exception as error:
                logger.debug("Listening to the channel layer failed: %r", error)
                await backoff.pause()

    def _hear_safely(self, message: dict[str, Any]) -> None:
        try:
            self._hear(message)
        except Exception:
            extra = {"verb": "message_failed"}
            logger.exception("A message of type %r was not handled", message.get("type"), extra=extra)

    async def _try(self, change: Callable[[str, str | None], Any], session_id: UUID) -> bool:
        try:
            async with asyncio.timeout(LAYER_TIMEOUT):
                await cancellable(change(session_group(session_id), self._channel))
        except Exception as error:
            logger.debug("The group of session %s was not joined or left: %r", session_id, error)
            return False
        return True
