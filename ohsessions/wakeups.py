"""Wake-ups over the channel layer: hints to look at something in the database.

By its contract the layer may lose, double or delay a message, so nothing depends on one. A process that gets
a hint looks sooner; reconciliation looks in any case. Therefore Wakeups raises no errors of the layer. A
layer that failed is not used, and so delays nobody, until `probe` finds that it works.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer, get_channel_layer

from ohsessions.concurrency.outages import Outage
from ohsessions.concurrency.tasks import cancellable
from ohsessions.core.runtime import JSON
from ohsessions.core.states import State

if TYPE_CHECKING:
    from ohsessions.lifecycle import Change

logger = logging.getLogger(__name__)
Send = Callable[[str, dict[str, Any]], Coroutine[Any, Any, None]]

WORK_CHANNEL = "ohsessions"
"""The channel of messages to all workers, about sessions without an owner."""
MAX_IN_MESSAGE = 64 * 1024
"""The most characters of events in a message. If there are more, it has only the last event's number."""

SEND_TIMEOUT = 1.0
"""Seconds that sending a message may take: an acknowledgement waits for it."""
PROBE_EVERY = 1.5
"""Seconds between two probes of the layer, also when there is nothing else to send."""
PROBE_GROUP = "ohsessions.probe"
"""A group without members: a message to it goes through the whole layer and leaves nothing behind."""


def worker_channel(process_id: UUID) -> str:
    return f"ohsessions.worker.{process_id.hex}"


def session_group(session_id: UUID) -> str:
    return f"ohsessions.session.{session_id.hex}"


def is_embedded() -> bool:
    """Return whether the channel layer is in memory. Then the gateway's process runs a worker, too."""
    return isinstance(get_channel_layer(), InMemoryChannelLayer)


class Hearing:
    """The receiving side of a channel layer, which raises the layer's errors.

    The core layer of channels_redis (4.3) cleans up after each message in a task that nobody awaits. If the
    task fails because Redis went away, asyncio would log its traceback. This class prevents that.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    async def receive(self, channel: str) -> dict[str, Any]:
        message: dict[str, Any] = await cancellable(self._layer.receive(channel))
        for task in getattr(self._layer, "receive_cleaners", ()):
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return message


class Wakeups:
    """The sender of hints, one per process."""

    def __init__(self) -> None:
        self._layer: Any = get_channel_layer()
        self._outage = Outage(logger, "The channel layer", "layer")

    @property
    def works(self) -> bool:
        return not self._outage.lasts

    async def change(self, change: Change) -> None:
        """Notify all processes that a committed life-cycle transaction concerns."""
        if change.stored:
            await self.events(change.session_id, change.stored, change.head)
        if change.moved:
            await self.state(change.session_id, change.state, change.reason, change.title)
        if change.ended:
            await self.ended(change.session_id)
        owner = change.worker or change.former
        if owner is not None:
            await self.owner(owner, change.session_id, change.epoch, change.secrets_version)
        if change.worker is None and change.state == State.STARTING:
            await self.wanted(change.session_id)

    async def events(self, session_id: UUID, stored: Sequence[tuple[int, str]], head: int) -> None:
        """Notify gateways of new events: (number, data) of each if they are small, and the last number."""
        message: dict[str, Any] = {"type": "session.events", "session": session_id.hex, "head": head}
        if sum(len(data) for _, data in stored) <= MAX_IN_MESSAGE:
            message["events"] = [list(event) for event in stored]
        await self._to_session(session_id, message)

    async def state(self, session_id: UUID, state: str, reason: str, title: str) -> None:
        """Notify gateways that a session changed its state or title."""
        message = {"type": "session.state", "session": session_id.hex}
        await self._to_session(session_id, message | {"state": state, "reason": reason, "title": title})

    async def presence(self, session_id: UUID) -> None:
        """Notify gateways that a client attached or left."""
        await self._to_session(session_id, {"type": "session.presence", "session": session_id.hex})

    async def notice(self, session_id: UUID, notice: dict[str, JSON]) -> None:
        """Make gateways send a notice to all attached clients."""
        await self._to_session(
            session_id, {"type": "session.notice", "session": session_id.hex, "notice": notice}
        )

    async def error(self, session_id: UUID, payload: dict[str, JSON]) -> None:
        """Make gateways send an unstored oh_event (an error, a status) to all attached clients."""
        await self._to_session(
            session_id, {"type": "session.error", "session": session_id.hex, "payload": payload}
        )

    async def ended(self, session_id: UUID) -> None:
        """Notify gateways that connections of a session were ended in the database."""
        await self._to_session(session_id, {"type": "session.ended", "session": session_id.hex})

    async def wanted(self, session_id: UUID) -> None:
        """Notify workers that a session has no owner."""
        await self._send(WORK_CHANNEL, {"type": "session.wanted", "session": session_id.hex})

    async def owner(self, worker: UUID, session_id: UUID, epoch: int, secrets_version: int = 0) -> None:
        """Notify a session's owner that there is work for it, and of the version of its secrets."""
        message = {"type": "session.work", "session": session_id.hex, "epoch": epoch}
        message |= {"secrets_version": secrets_version}
        await self._send(worker_channel(worker), message)

    async def probe(self) -> None:
        """Test whether the layer works, also if it failed the last time."""
        if self._layer is not None:
            await self._try(self._layer.group_send, PROBE_GROUP, {"type": "probe"})

    async def probe_for_ever(self) -> None:
        """Probe the layer forever, so that an idle process, too, detects and logs that it is away or back."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_EVERY)

    async def _to_session(self, session_id: UUID, message: dict[str, Any]) -> None:
        if self._layer is not None and self.works:
            await self._try(self._layer.group_send, session_group(session_id), message)

    async def _send(self, channel: str, message: dict[str, Any]) -> None:
        if self._layer is not None and self.works:
            await self._try(self._layer.send, channel, message)

    async def _try(self, send: Send, target: str, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._send_twice(send, target, message)
        except ChannelFull:
            pass  # the receiver is slow; the layer works
        except Exception as error:
            self._outage.failed(f"{error!r}. Events and actions are delivered later, from the database.")
        else:
            self._outage.worked()

    async def _send_twice(self, send: Send, target: str, message: dict[str, Any]) -> None:
        """Send a message, with a second try if the layer worked so far: its pool may hold a connection from
        before a restart of Redis, which is no new outage."""
        try:
            await cancellable(send(target, message))
        except ChannelFull:
            raise
        except Exception:
            if not self.works:
                raise
            await cancellable(send(target, message))
