"""The layers of Redis themselves: processes join forgotten groups again, and misleading errors do no harm."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from ohsessions import wakeups as wakeups_module
from ohsessions.gateway import subscriptions as subscriptions_module
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.wakeups import Wakeups, session_group
from ohsessions.worker import layer as worker_layer
from ohsessions.worker.layer import LayerWorker, WakeupConsumer
from tests.requirements import RedisServer

LIMIT = 20.0
EXPIRY = 1
"""Seconds after which a group forgets its members; the default is a day."""


class Listening:
    """A gateway's subscriptions over a core layer whose groups forget soon."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self.layer = layer
        self.session_id = uuid4()
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.subscriptions = Subscriptions({self.session_id: None}.keys(), self._heard.put_nowait)

    async def hears(self) -> bool:
        """Return whether a message to the group arrives before a later one to the channel."""
        mark, end = uuid4().hex, uuid4().hex
        await self.layer.group_send(session_group(self.session_id), {"type": "x", "mark": mark})
        await self.layer.send(self.subscriptions._channel, {"type": "x", "mark": end})
        marks: list[str] = []
        async with asyncio.timeout(LIMIT):
            while end not in marks:
                marks.append((await self._heard.get())["mark"])
        return mark in marks


@pytest.fixture
async def listening(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listening]:
    host = {"address": redis_url, "socket_timeout": 10}
    layer = RedisChannelLayer(hosts=[host], prefix=uuid4().hex, group_expiry=EXPIRY)
    monkeypatch.setattr(subscriptions_module, "get_channel_layer", lambda: layer)
    made = Listening(layer)
    task = asyncio.create_task(made.subscriptions.listen())
    async with asyncio.timeout(LIMIT):
        while made.subscriptions._channel is None:  # noqa: ASYNC110 - nothing else shows it
            await asyncio.sleep(0)
        while not await made.hears():
            pass
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await layer.close_pools()


async def test_a_membership_that_is_renewed_outlives_the_layers_patience(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions_module, "RENEW_EVERY", EXPIRY / 4)
    end = time.monotonic() + 4 * EXPIRY
    while time.monotonic() < end:
        await listening.subscriptions.renew()
        assert await listening.hears()


async def test_a_membership_that_is_not_renewed_lapses(listening: Listening) -> None:
    """Without this test, the test above might test nothing."""
    async with asyncio.timeout(LIMIT):
        while await listening.hears():
            await listening.subscriptions.renew()


async def test_a_membership_that_lapsed_is_renewed_when_it_is_doubted(listening: Listening) -> None:
    async with asyncio.timeout(LIMIT):
        while await listening.hears():
            pass
    listening.subscriptions.doubt(listening.session_id)
    await listening.subscriptions.renew()
    assert await listening.hears()


async def test_a_worker_that_started_before_redis_hears_when_redis_is_there(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", worker_layer.logger.name)
    monkeypatch.setattr(worker_layer, "RETRY_MOST", 0.05)
    redis_server.stop()
    layer = RedisPubSubChannelLayer(hosts=[redis_server.url], prefix=uuid4().hex)
    wanted: list[UUID] = []
    consumer = WakeupConsumer.as_asgi(wanted=wanted.append, work=lambda *_: None)
    worker = LayerWorker(consumer, ["channel"], layer)
    task = asyncio.create_task(worker.handle())
    try:
        async with asyncio.timeout(LIMIT):
            while "Listening to channel" not in caplog.text:  # noqa: ASYNC110 - it only logs that it failed
                await asyncio.sleep(0.01)
            await asyncio.to_thread(redis_server.start)
            while not wanted:
                await layer.send("channel", {"type": "session.wanted", "session": uuid4().hex})
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await layer.flush()


class Untidy(RedisChannelLayer):  # type: ignore[misc]
    """A layer whose connection fails each time between a message and the cleanup after it."""

    failed = 0

    async def _clean_receive_backup(self, index: int, channel: str) -> None:
        await super()._clean_receive_backup(index, channel)
        self.failed += 1
        raise ConnectionError("Redis went away")


@pytest.mark.parametrize("who", ["gateway", "worker"])
async def test_what_fails_behind_a_message_is_no_error_of_its_own(
    who: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # the leftovers of other tests must not count here
    caplog.clear()
    layer = Untidy(hosts=[redis_url], prefix=uuid4().hex)
    heard = asyncio.Event()
    if who == "gateway":
        monkeypatch.setattr(subscriptions_module, "get_channel_layer", lambda: layer)
        session_id = uuid4()
        hearing = Subscriptions({session_id: None}.keys(), lambda message: heard.set()).listen()
        send = partial(layer.group_send, session_group(session_id))
    else:
        consumer = WakeupConsumer.as_asgi(wanted=lambda session_id: heard.set(), work=None)
        hearing = LayerWorker(consumer, ["channel"], layer).handle()
        send = partial(layer.send, "channel")
    task = asyncio.create_task(hearing)
    async with asyncio.timeout(LIMIT):
        while not heard.is_set():
            await send({"type": "session.wanted", "session": uuid4().hex})
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await layer.close_pools()
    gc.collect()
    assert layer.failed
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("what", ["send", "listen"])
async def test_a_stop_ends_what_a_busy_layer_is_in_the_middle_of(
    what: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11, redis swallows about every second cancellation of a sender."""
    layer = RedisChannelLayer(hosts=[redis_url], prefix=uuid4().hex)
    for module in (subscriptions_module, wakeups_module):
        monkeypatch.setattr(module, "get_channel_layer", lambda: layer)
    session_id = uuid4()
    wakeups = Wakeups()

    async def send() -> None:
        while True:
            await wakeups.presence(session_id)

    for _ in range(8):
        heard = asyncio.Event()
        hearing = Subscriptions({session_id: None}.keys(), lambda message, heard=heard: heard.set()).listen()
        tasks = {"send": asyncio.create_task(send()), "listen": asyncio.create_task(hearing)}
        async with asyncio.timeout(LIMIT):
            await heard.wait()
        tasks[what].cancel()
        ended, _ = await asyncio.wait([tasks[what]], timeout=LIMIT / 4)
        for task in tasks.values():
            task.cancel()
        assert ended
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    await layer.close_pools()
