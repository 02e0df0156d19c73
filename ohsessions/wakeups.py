"""Hints over the channel layer: that something is to be looked at in the database.

A message may be lost, doubled or late by contract of the layer, so nothing depends on one: who gets it looks
sooner, and reconciliation looks anyway. Therefore nothing here raises. A failing layer is logged once, and
once more when it works again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from channels.layers import InMemoryChannelLayer, get_channel_layer

from ohsessions.core.runtime import JSON
from ohsessions.core.states import State

if TYPE_CHECKING:
    from ohsessions.lifecycle import Change

logger = logging.getLogger(__name__)

WORK_CHANNEL = "ohsessions"
"""Where workers hear of sessions that nobody owns."""
MAX_INLINE = 64 * 1024
"""Characters of events that travel in a message; beyond it only their numbers do."""

SEND_TIMEOUT = 1.0
"""Seconds that a message may take: behind it an acknowledgement waits."""
PAUSE = 1.0
"""Seconds for which a layer that failed is left alone."""


def worker_channel(process_id: UUID) -> str:
    return f"ohsessions.worker.{process_id.hex}"


def session_group(session_id: UUID) -> str:
    return f"ohsessions.session.{session_id.hex}"


def is_embedded() -> bool:
    """Whether the channel layer ends at this process: then its gateway runs a worker too."""
    return isinstance(get_channel_layer(), InMemoryChannelLayer)


class Wakeups:
    """Sends hints. One per process."""

    def __init__(self) -> None:
        self._layer: Any = get_channel_layer()
        self._paused_until = 0.0
        self.works = True

    async def change(self, change: Change) -> None:
        """Tells everybody whom a committed life-cycle transaction concerns."""
        if change.stored:
            await self.events(change.session_id, change.stored, change.head)
        if change.moved:
            await self.state(change.session_id, change.state, change.reason, change.title)
        if change.ended:
            await self.ended(change.session_id)
        owner = change.worker or change.former
        if owner is not None:
            await self.owner(owner, change.session_id, change.epoch)
        if change.worker is None and change.state == State.STARTING:
            await self.wanted(change.session_id)

    async def events(self, session_id: UUID, stored: Sequence[tuple[int, str]], head: int) -> None:
        """Tells gateways of new events: (number, data) of each when they are small, and the last number."""
        message: dict[str, Any] = {"type": "session.events", "session": session_id.hex, "head": head}
        if sum(len(data) for _, data in stored) <= MAX_INLINE:
            message["events"] = [list(event) for event in stored]
        await self._to_session(session_id, message)

    async def state(self, session_id: UUID, state: str, reason: str, title: str) -> None:
        """Tells gateways that a session changed its state or title."""
        message = {"type": "session.state", "session": session_id.hex}
        await self._to_session(session_id, message | {"state": state, "reason": reason, "title": title})

    async def presence(self, session_id: UUID) -> None:
        """Tells gateways that somebody came or went."""
        await self._to_session(session_id, {"type": "session.presence", "session": session_id.hex})

    async def notice(self, session_id: UUID, notice: dict[str, JSON]) -> None:
        """Has gateways send a notice to everyone attached."""
        await self._to_session(
            session_id, {"type": "session.notice", "session": session_id.hex, "notice": notice}
        )

    async def error(self, session_id: UUID, payload: dict[str, JSON]) -> None:
        """Has gateways send an unstored oh_event (an error, a status) to everyone attached."""
        await self._to_session(
            session_id, {"type": "session.error", "session": session_id.hex, "payload": payload}
        )

    async def ended(self, session_id: UUID) -> None:
        """Tells gateways that connections of a session were ended in the database."""
        await self._to_session(session_id, {"type": "session.ended", "session": session_id.hex})

    async def wanted(self, session_id: UUID) -> None:
        """Tells workers that a session has no owner."""
        await self._send(WORK_CHANNEL, {"type": "session.wanted", "session": session_id.hex})

    async def owner(self, worker: UUID, session_id: UUID, epoch: int) -> None:
        """Tells a session's owner that there is something to do for it."""
        message = {"type": "session.work", "session": session_id.hex, "epoch": epoch}
        await self._send(worker_channel(worker), message)

    async def _to_session(self, session_id: UUID, message: dict[str, Any]) -> None:
        if self._layer is not None:
            await self._try(self._layer.group_send(session_group(session_id), message))

    async def _send(self, channel: str, message: dict[str, Any]) -> None:
        if self._layer is not None:
            await self._try(self._layer.send(channel, message))

    async def _try(self, sending: Coroutine[Any, Any, None]) -> None:
        """Sends, for SEND_TIMEOUT at most. A layer that failed is left alone for PAUSE seconds, or all would
        wait for it again and again."""
        now = time.monotonic()
        if now < self._paused_until:
            sending.close()
            return
        if not self.works:
            self._paused_until = now + PAUSE  # one tries whether it works again
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await sending
        except Exception as error:
            self._paused_until = time.monotonic() + PAUSE
            if self.works:
                self.works = False
                extra = {"verb": "layer_lost"}
                logger.warning("The channel layer fails (%r): all goes on, later.", error, extra=extra)
        else:
            self._paused_until = 0.0
            if not self.works:
                self.works = True
                logger.info("The channel layer works again.", extra={"verb": "layer_back"})
