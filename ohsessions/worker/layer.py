"""The Channels worker: receives wake-ups for sessions over the channel layer.

Channels' own worker listens on its channels and passes each message to a consumer. This one also survives a
layer that fails (the database is the truth, wake-ups come late), and its consumer needs no layer channel.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from channels.consumer import AsyncConsumer
from channels.worker import Worker

from ohsessions.concurrency.backoff import Backoff
from ohsessions.wakeups import Hearing

logger = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.5, 4.0
"""Seconds to wait before listening again to a layer that failed: the first pause and the longest."""


class WakeupConsumer(AsyncConsumer):  # type: ignore[misc]
    """Turns the messages of ohsessions.wakeups into calls. `dispatch` neither waits nor raises."""

    def __init__(self, wanted: Callable[[UUID], None], work: Callable[[UUID, int, int], None]) -> None:
        self._wanted = wanted
        self._work = work

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            await self.dispatch(await receive())

    async def dispatch(self, message: dict[str, Any]) -> None:
        try:
            session_id = UUID(message["session"])
            if message["type"] == "session.wanted":
                self._wanted(session_id)
            elif message["type"] == "session.work":
                self._work(session_id, message["epoch"], message.get("secrets_version", 0))
        except Exception:
            # Any message may come over a channel. An exception here would end the listening.
            logger.warning("A message of unknown type %r was ignored", message.get("type"))


class LayerWorker(Worker):  # type: ignore[misc]
    """A Channels worker whose listeners continue when the layer fails, and end with `handle`."""

    def __init__(self, application: Any, channels: Iterable[str], layer: Any) -> None:
        super().__init__(application, channels, Hearing(layer))

    async def handle(self) -> None:
        """Listen on all channels. When cancelled, end all listeners, which Channels' own worker does not."""
        tasks = [
            asyncio.create_task(self.listener(channel), name=f"worker listens to {channel}")
            for channel in self.channels
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            consumers = [instance["future"] for instance in self.application_instances.values()]
            for name in list(self.application_instances):
                self.delete_application_instance(name)
            await asyncio.gather(*consumers, return_exceptions=True)

    async def listener(self, channel: str) -> None:
        backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        while True:
            began = time.monotonic()
            try:
                await super().listener(channel)
            except Exception as error:
                logger.debug("Listening to channel %s failed: %r", channel, error)
                await self._unsubscribe(channel)
                if time.monotonic() - began > RETRY_MOST:
                    backoff.reset()  # it has listened meanwhile
                await backoff.pause()

    async def _unsubscribe(self, channel: str) -> None:
        """Make the layer forget a channel.

        The pub/sub layer (channels_redis 4.3) regards a channel as subscribed even if the subscription
        failed, and would never receive from it. If a receive is cancelled, the layer forgets its channel.
        """
        try:
            async with asyncio.timeout(0):
                await self.channel_layer.receive(channel)
        except Exception as error:
            logger.debug("Leaving channel %s ended with %r", channel, error)
