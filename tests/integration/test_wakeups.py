"""Wake-ups: their receivers, and the short delay by a layer that fails or hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer, channel_layers
from django.db import OperationalError, transaction

from ohsessions import api, lifecycle, wakeups
from ohsessions.concurrency import tasks
from ohsessions.core.errors import Unavailable, WireError
from ohsessions.journal import Append
from ohsessions.processes import store as store_module
from ohsessions.processes.announcements import MOST_WAITING, Announcements
from ohsessions.processes.store import Store
from ohsessions.wakeups import PROBE_GROUP, WORK_CHANNEL, Wakeups, session_group, worker_channel
from ohsessions.worker.layer import LayerWorker, WakeupConsumer
from tests.integration.world import World, action, observation, session
from tests.tasks import check_tasks

LIMIT = 20.0


class Layer(InMemoryChannelLayer):
    """A layer that can be made to fail or to hang."""

    error: Exception | None = None
    hangs = False

    def __init__(self) -> None:
        super().__init__(capacity=1000)
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.tries = 0

    async def _pass(self, target: str, message: dict[str, Any]) -> None:
        self.tries += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        self.sent.append((target, message))

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await self._pass(channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._pass(group, message)

    def take(self) -> list[tuple[str, str]]:
        """Return target and type of each message that was sent since the last call."""
        taken = [(target, message["type"]) for target, message in self.sent]
        self.sent.clear()
        return taken


@pytest.fixture
def layer() -> Iterator[Layer]:
    layer = Layer()
    channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.clear()  # the next use makes the layer that the settings name


@pytest.fixture
async def store(layer: Layer, database: str) -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.close()


async def test_a_new_session_wakes_the_workers(world: World, store: Store, layer: Layer):
    attached = await store.change(world.open)
    await store.announced()
    group = session_group(attached.change.session_id)
    assert layer.take() == [(group, "session.state"), (WORK_CHANNEL, "session.wanted")]


async def test_an_action_wakes_its_owner_and_the_gateways(world: World, store: Store, layer: Layer):
    session_id, epoch = await store.change(world.run)
    await store.append(Append(session_id, [action()]))
    await store.announced()
    group, owner = session_group(session_id), worker_channel(world.worker)
    (_, events), (_, work) = layer.sent
    assert layer.take() == [(group, "session.events"), (owner, "session.work")]
    assert (events["head"], [number for number, _ in events["events"]]) == (2, [2])
    assert work["epoch"] == epoch
    await store.append(Append(session_id, [observation("x", "k")], epoch=epoch))
    assert layer.take() == [(group, "session.events")], "its owner knows what it wrote itself"
    await store.append(Append(session_id, epoch=epoch, handled=2))
    assert layer.take() == []


async def test_an_action_of_a_session_that_nobody_owns_wakes_the_workers(
    world: World, store: Store, layer: Layer
):
    session_id = (await store.change(world.open)).change.session_id
    await store.announced()
    layer.take()
    await store.append(Append(session_id, [action()]))
    await store.announced()
    assert layer.take() == [(session_group(session_id), "session.events"), (WORK_CHANNEL, "session.wanted")]


async def test_large_events_travel_as_numbers_only(world: World, store: Store, layer: Layer):
    session_id, epoch = await store.change(world.run)
    large = "x" * wakeups.MAX_IN_MESSAGE
    events = [observation(large, "k"), observation("small", "l")]
    await store.append(Append(session_id, events, epoch=epoch))
    ((_, message),) = layer.sent
    assert "events" not in message
    assert message["head"] == 3


async def test_who_lost_a_session_hears_of_it(world: World, store: Store, layer: Layer):
    session_id, _ = await store.change(world.run, "a")
    await store.change(lifecycle.force_passivation, session_id, by="op")
    await store.announced()
    group, owner = session_group(session_id), worker_channel(world.worker)
    assert layer.take() == [(group, "session.ended"), (owner, "session.work")]
    await store.change(lifecycle.close, session_id, by="me")
    await store.announced()
    assert layer.take() == [(group, "session.events"), (group, "session.state"), (owner, "session.work")]


async def test_a_repeated_action_is_announced_again(world: World, store: Store, layer: Layer):
    """A repeated action cannot know whether anybody heard its first announcement."""
    session_id, _ = await store.change(world.run)
    for _ in range(2):
        await store.append(Append(session_id, [action(write_key="c:1")]))
    await store.announced()
    assert [kind for _, kind in layer.take()] == ["session.events", "session.work"] * 2


async def test_a_client_is_answered_though_the_layer_hangs_and_the_order_is_kept(
    world: World, store: Store, layer: Layer
) -> None:
    layer.hangs = True
    async with asyncio.timeout(LIMIT):
        session_id = (await store.change(world.open)).change.session_id
        await store.append(Append(session_id, [action()]))
        await store.change(lifecycle.close, session_id, by="me")
    assert layer.sent == []
    layer.hangs = False
    await store.announced()
    assert await store.database.read(lambda: session(session_id).state) == "closed"


async def test_what_is_announced_of_one_session_keeps_its_order(
    world: World, store: Store, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = layer.group_send
    pauses = iter([0.02, 0.0, 0.01, 0.0, 0.0, 0.0])

    async def send_late(group: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(next(pauses))
        await send(group, message)

    monkeypatch.setattr(layer, "group_send", send_late)
    session_id = (await store.change(world.open)).change.session_id
    for _ in range(3):
        await store.append(Append(session_id, [action()]))
    await store.change(lifecycle.close, session_id, by="me")
    await store.announced()
    kinds = [message["type"] for group, message in layer.sent if group == session_group(session_id)]
    assert kinds == ["session.state", *["session.events"] * 4, "session.state"]


async def test_of_a_session_whose_layer_is_slow_a_bounded_number_of_wakeups_waits() -> None:
    release, sent = asyncio.Event(), []

    async def send(number: int) -> None:
        await release.wait()
        sent.append(number)

    announcements = Announcements()
    for number in range(3 * MOST_WAITING):
        announcements.put(UUID(int=1), send, number)
    release.set()
    await announcements.sent()
    assert sent == list(range(MOST_WAITING))


def test_a_new_title_is_told_after_the_commit(world: World, layer: Layer):
    session_id = world.open("a").change.session_id
    with transaction.atomic():
        api.rename(session_id, "title")
        assert layer.sent == []
    assert layer.sent[0][1]["title"] == session(session_id).title == "title"


def test_workers_hear_of_a_session_that_an_operator_wakes(world: World, layer: Layer):
    session_id, epoch = world.run("a")
    world.sleep(session_id, epoch)
    api.wake(session_id, by="op")
    assert layer.take() == [(session_group(session_id), "session.state"), (WORK_CHANNEL, "session.wanted")]


def test_all_processes_concerned_hear_of_what_django_code_does(world: World, layer: Layer):
    session_id, _ = world.run("a")
    group, owner = session_group(session_id), worker_channel(world.worker)
    assert api.revoke_links(session_id) == 1
    assert layer.take() == [(group, "session.ended"), (owner, "session.work")]
    assert "passivates" in api.passivate(session_id, by="op")
    assert layer.take() == [(owner, "session.work")]
    api.close(session_id, by="me")
    assert layer.take() == [(group, "session.events"), (group, "session.state"), (owner, "session.work")]
    with pytest.raises(WireError):
        api.close(uuid4(), by="me")


def test_what_is_rolled_back_is_told_to_nobody(world: World, layer: Layer):
    session_id, _ = world.run("a")
    with transaction.atomic():
        api.close(session_id, by="me")
        transaction.set_rollback(True)
    assert layer.sent == []
    assert session(session_id).state == "running"


async def test_a_layer_that_fails_is_logged_once_and_once_when_it_works_again(layer: Layer, caplog):
    caplog.set_level("INFO", "ohsessions.wakeups")
    sender = Wakeups()
    layer.error = OSError("no route")
    for _ in range(3):
        await sender.wanted(UUID(int=1))
        await sender.probe()
    assert not sender.works
    layer.error = None
    for _ in range(2):
        await sender.probe()
        await sender.wanted(UUID(int=1))
    assert sender.works
    assert [record.verb for record in caplog.records] == ["layer_lost", "layer_back"]
    assert layer.take() == [(PROBE_GROUP, "probe"), (WORK_CHANNEL, "session.wanted")] * 2


async def test_a_layer_that_hangs_costs_one_timeout_and_then_nothing_until_a_probe_returns(
    layer: Layer, monkeypatch
):
    monkeypatch.setattr(wakeups, "SEND_TIMEOUT", 0.05)
    sender = Wakeups()
    layer.hangs = True
    async with asyncio.timeout(LIMIT):
        for _ in range(1000):
            await sender.wanted(UUID(int=1))
            await sender.presence(UUID(int=1))
        assert layer.tries == 1
        await sender.probe()
    assert layer.tries == 2


async def test_a_process_that_sends_nothing_learns_that_the_layer_is_away_and_back(layer: Layer, monkeypatch):
    monkeypatch.setattr(wakeups, "PROBE_EVERY", 0.01)
    sender = Wakeups()
    probing = asyncio.create_task(sender.probe_for_ever())
    try:
        async with asyncio.timeout(LIMIT):
            for layer.error in (OSError("no route"), None):
                while sender.works != (layer.error is None):  # noqa: ASYNC110 - nothing else shows it
                    await asyncio.sleep(0.001)
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)


async def test_a_channel_that_is_full_is_no_layer_that_fails(layer: Layer):
    """The channel of a dead worker is full as well, because nobody reads it any more."""
    sender = Wakeups()
    layer.error = ChannelFull()
    await sender.wanted(UUID(int=1))
    assert sender.works


async def test_without_a_layer_nothing_is_sent_and_nothing_raises(settings):
    settings.CHANNEL_LAYERS = {}
    await Wakeups().wanted(UUID(int=1))
    await Wakeups().presence(UUID(int=1))


STRANGE: list[dict[str, Any]] = [
    {"type": "session.work"},
    {"type": "session.work", "session": 5, "epoch": 1},
    {"type": "session.work", "session": None, "epoch": 1},
    {"type": "session.work", "session": UUID(int=1).hex, "epoch": "last"},
    {"type": "session.wanted", "session": "nonsense"},
]


@pytest.mark.parametrize("message", STRANGE, ids=repr)
async def test_a_message_that_is_none_of_ours_leaves_nobody_deaf(message: dict[str, Any], caplog) -> None:
    heard: list[UUID] = []
    consumer = WakeupConsumer(
        heard.append, lambda session_id, epoch: heard.extend([session_id] * (epoch > 1))
    )
    await consumer.dispatch(message)
    assert "of unknown type" in caplog.text
    await consumer.dispatch({"type": "session.wanted", "session": UUID(int=2).hex})
    assert heard == [UUID(int=2)]


async def test_who_listens_no_longer_leaves_no_task() -> None:
    """A worker that registers again listens again, under another id."""
    before = asyncio.all_tasks()
    heard = asyncio.Event()
    consumer = WakeupConsumer.as_asgi(
        wanted=lambda session_id: heard.set(), work=lambda session_id, epoch: None
    )
    layer = InMemoryChannelLayer()
    listening = asyncio.create_task(LayerWorker(consumer, [WORK_CHANNEL, "other"], layer).handle())
    await layer.send(WORK_CHANNEL, {"type": "session.wanted", "session": UUID(int=1).hex})
    async with asyncio.timeout(LIMIT):
        await heard.wait()
    listening.cancel()
    await asyncio.wait([listening], timeout=LIMIT)
    check_tasks(before)


class Swallowing(InMemoryChannelLayer):
    """A layer that swallows the first cancellation of each receive, as redis 8.1 now and then does."""

    def __init__(self) -> None:
        super().__init__()
        self.receives = asyncio.Event()

    async def receive(self, channel: str) -> Any:
        try:
            self.receives.set()
            return await super().receive(channel)
        except asyncio.CancelledError:
            return await super().receive(channel)


async def test_a_listener_that_swallows_a_cancellation_ends_all_the_same(monkeypatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.01)
    before = asyncio.all_tasks()
    layer = Swallowing()
    worker = LayerWorker(WakeupConsumer.as_asgi(wanted=None, work=None), [WORK_CHANNEL], layer)
    listening = asyncio.create_task(worker.handle())
    async with asyncio.timeout(LIMIT):
        await layer.receives.wait()
    listening.cancel()
    await asyncio.wait([listening], timeout=LIMIT)
    check_tasks(before)


async def test_a_connection_of_before_redis_restarted_is_no_outage_and_loses_nothing(
    layer: Layer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send, stale = layer.send, [ConnectionError("the server closed the connection")]

    async def send_or_fail(channel: str, message: dict[str, Any]) -> None:
        if stale:
            raise stale.pop()
        await send(channel, message)

    monkeypatch.setattr(layer, "send", send_or_fail)
    sender = Wakeups()
    await sender.wanted(UUID(int=1))
    assert sender.works
    assert layer.take() == [(WORK_CHANNEL, "session.wanted")]
    assert caplog.records == []


async def test_a_client_is_answered_soon_and_a_runtime_waits_as_long_as_it_takes(
    world: World, store: Store, monkeypatch
):
    """The events of a runtime must not be lost because the database hangs."""
    session_id, epoch = await store.change(world.run)
    monkeypatch.setattr(store_module, "ANSWER_LIMIT", 0.05)
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(LIMIT)

    hanging = asyncio.create_task(store.database.write_urgently(hang))
    assert await asyncio.to_thread(begun.wait, LIMIT)
    runtimes = asyncio.create_task(store.append(Append(session_id, [observation("x", "k")], epoch=epoch)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await store.append(Append(session_id, [action()]))
    with pytest.raises(Unavailable):
        await store.change_soon(hang)
    release.set()
    assert (await runtimes).numbers == [2]
    await hanging


@pytest.mark.parametrize("method", ["change_patiently", "read_patiently"])
async def test_what_is_done_patiently_is_tried_until_the_database_is_back(store: Store, monkeypatch, method):
    monkeypatch.setattr(store_module, "RETRY_FIRST", 0.0)
    outage = [OperationalError("away") for _ in range(5)]

    def work() -> str:
        if outage:
            raise outage.pop()
        return "done"

    async with asyncio.timeout(LIMIT):
        assert await getattr(store, method)(work) == "done"
