"""Delivery: every connection gets every event once, in order, whatever the layer and the readers do."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ohsessions import journal
from ohsessions.core.states import State
from ohsessions.gateway import pump as pump_module
from ohsessions.gateway.pump import Pump
from ohsessions.journal import Append, Head
from ohsessions.models import Connection, Event, Session
from ohsessions.processes.store import Store
from tests.integration.world import append, in_thread, observation

LIMIT = 10.0


class FlakyStore(Store):
    """A store that counts reads and fails `failures` of them.

    A read waits for its result while `gate` is cleared.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.failures = 0
        self.gate: asyncio.Event | None = None
        self.read_begun = asyncio.Event()
        self.read_ended = asyncio.Event()

    async def read_patiently(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.reads += 1
        self.read_begun.set()
        found = await super().read_patiently(function, *args, **kwargs)
        self.read_ended.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a page that cannot be read")
        return found


@pytest.fixture
def store(transactional_db: None) -> Iterator[FlakyStore]:
    made = FlakyStore()
    yield made
    asyncio.run(made.close())


class Reader:
    """A connection that keeps the packets it gets, and takes `room` packets until it gets more room."""

    def __init__(self, cursor: int = -1, *, batch: bool = False, room: float = float("inf")) -> None:
        self.cursor = cursor
        self.generation = 0
        self.batch = batch
        self.room = room
        self.closed = False
        self.attached = False
        self.got: list[int] = []
        self.data: list[str] = []
        self.packets: list[str] = []
        self.restarts: list[tuple[int, int]] = []
        self.news = asyncio.Event()
        self._roomy = asyncio.Event()

    @property
    def writable(self) -> bool:
        return self.room > 0 or self.closed

    async def wait_writable(self) -> None:
        while not self.writable:
            self._roomy.clear()
            await self._roomy.wait()

    def allow(self, packets: float) -> None:
        self.room += packets
        self._roomy.set()

    def send_packet(self, packet: str) -> None:
        assert self.attached, "fed after it was removed"
        self.room -= 1
        self.packets.append(packet)
        name, content = json.loads(packet[1:])
        events = content if name == "oh_events" else [content]
        self.got += [event["id"] for event in events]
        body = packet[len(f'2["{name}",') : -1]
        self.data += [body] if name == "oh_event" else []
        self.news.set()

    def notice(self, notice: dict[str, Any]) -> None:
        self.packets.append(json.dumps(notice))

    def start_anew(self, first: int, head: int) -> None:
        self.restarts.append((first, head))
        self.cursor = first - 1

    async def wait_got(self, numbers: list[int]) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                while self.got != numbers:
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"got {self.got}, not {numbers}") from None


class Log:
    """A session's log, with the layer's message for each append."""

    def __init__(self) -> None:
        now = timezone.now()
        times = {"created_at": now, "state_at": now, "active_at": now}
        self.pk: UUID = Session.objects.create(runtime="echo", state=State.RUNNING, **times).pk
        self.events: list[tuple[int, str]] = []

    @property
    def head(self) -> int:
        return len(self.events) - 1

    def append(self, *sizes: int) -> list[tuple[int, str]]:
        first = len(self.events)
        new = [observation("x" * size, f"0.{first + index}") for index, size in enumerate(sizes)]
        stored: list[tuple[int, str]] = append(Append(self.pk, new, epoch=0)).stored
        self.events += stored
        return stored

    def connect(self, sid: str) -> None:
        """Attach a connection."""
        times = {"connected_at": timezone.now(), "attached_at": timezone.now()}
        Connection.objects.create(sid=sid, session_id=self.pk, **times)

    def reconciled(self) -> Head:
        return journal.heads([self.pk])[self.pk]


def attach(pump: Pump, reader: Reader, head: int) -> None:
    reader.attached = True
    pump.add(reader, head)


def remove(pump: Pump, reader: Reader) -> None:
    reader.generation += 1
    pump.remove(reader)
    reader.attached = False


async def aside(function: Any, *args: Any) -> Any:
    return await asyncio.to_thread(in_thread(function, *args))


# The property


class Run:
    """One life of a pump: the layer loses, doubles and reorders; readers come, go, and stop reading."""

    def __init__(self, store: Store, log: Log, seed: int) -> None:
        self.random = random.Random(seed)
        self.log = log
        self.pump = Pump(store, log.pk)
        self.layer: deque[tuple[list[tuple[int, str]], int]] = deque()
        self.readers: list[tuple[Reader, int]] = []
        """Each reader with the cursor at which it came. A reader that comes back is a new one."""

    async def do(self, step: str) -> None:
        if step == "append":
            sizes = [self.random.choice([0, 10, 3000]) for _ in range(self.random.randint(1, 5))]
            stored = await aside(self.log.append, *sizes)
            inline = stored if self.random.random() < 0.8 else []
            for _ in range(self.random.choice([0, 1, 1, 1, 2])):
                self.layer.append((inline, stored[-1][0]))
        elif step == "layer" and self.layer:
            index = self.random.randrange(len(self.layer))
            events, head = self.layer[index]
            del self.layer[index]
            self.pump.take(events, head)
        elif step == "attach":
            self.attach(Reader(room=self.random.choice([1, 3, float("inf")])))
        elif step == "leave":
            for reader, _ in self.attached()[:1]:
                remove(self.pump, reader)
        elif step == "return":
            for reader, _ in self.attached()[:1]:
                remove(self.pump, reader)
                self.readers.remove((reader, _))
                self.check(reader, _)
                reader.got.clear()
                self.attach(reader)
        elif step == "read":
            for reader, _ in self.readers:
                reader.allow(self.random.randint(0, 3))
        elif step == "reconcile":
            self.pump.reconcile(await aside(self.log.reconciled))
        else:
            await asyncio.sleep(0)

    def attached(self) -> list[tuple[Reader, int]]:
        found = [pair for pair in self.readers if pair[0].attached]
        self.random.shuffle(found)
        return found

    def attach(self, reader: Reader) -> None:
        cursor = self.random.randint(-1, self.log.head)
        reader.cursor = cursor
        reader.batch = self.random.random() < 0.3
        self.readers.append((reader, cursor))
        attach(self.pump, reader, self.random.randint(cursor, self.log.head))

    @staticmethod
    def check(reader: Reader, cursor: int) -> None:
        assert reader.got == list(range(cursor + 1, cursor + 1 + len(reader.got)))
        assert reader.restarts == []

    async def finish(self) -> None:
        self.pump.reconcile(await aside(self.log.reconciled))
        for reader, cursor in self.readers:
            reader.allow(float("inf"))
            if reader.attached:
                await reader.wait_got(list(range(cursor + 1, self.log.head + 1)))
            self.check(reader, cursor)
            assert set(reader.data) <= {data for _, data in self.log.events}
            remove(self.pump, reader)


STEPS = ["append", "append", "layer", "layer", "attach", "leave", "return", "read", "reconcile", "wait"]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=60), seed=st.integers(0, 2**32))
def test_each_connection_gets_each_event_once_and_in_order(
    store: FlakyStore, steps: list[str], seed: int
) -> None:
    log = Log()

    async def live() -> None:
        run = Run(store, log, seed)
        for step in ["append", *steps]:
            await run.do(step)
        await run.finish()

    asyncio.run(live())


# Former bugs and likely ones


def test_a_connection_that_comes_back_during_a_read_is_not_fed_by_two_tasks(store: FlakyStore) -> None:
    log = Log()
    log.append(*[0] * 5)

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        store.gate = asyncio.Event()
        attach(pump, reader, 4)
        await asyncio.sleep(0)  # its task begins to read
        remove(pump, reader)
        reader.cursor = -1
        attach(pump, reader, 4)
        for _ in range(5):
            await asyncio.sleep(0)  # the first task ends
        pump.take([], 4)
        store.gate.set()
        await reader.wait_got([0, 1, 2, 3, 4])
        await store.database.read(log.reconciled)
        assert reader.got == [0, 1, 2, 3, 4]
        assert store.reads == 2
        remove(pump, reader)

    asyncio.run(live())


def test_live_events_that_come_while_an_empty_page_is_read_are_not_late(store: FlakyStore) -> None:
    log = Log()
    log.append(0)

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader(cursor=0)
        store.gate = asyncio.Event()
        attach(pump, reader, 1)  # announced, but not yet stored
        await store.read_begun.wait()
        await store.database.read(log.reconciled)  # the page was read before
        pump.take(await aside(log.append, 0), 1)
        pump.take(await aside(log.append, 0), 2)
        store.gate.set()
        await reader.wait_got([1, 2])
        remove(pump, reader)

    asyncio.run(live())


def test_events_that_are_announced_and_not_there_are_asked_for_once_per_reconciliation(
    store: FlakyStore,
) -> None:
    log = Log()
    log.append(0)

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, 7)
        await reader.wait_got([0])
        for _ in range(3):
            task = pump.outlets[reader]
            if task is not None:
                await task
            pump.reconcile(await aside(log.reconciled))
        task = pump.outlets[reader]
        assert task is not None
        await task
        assert store.reads == 5
        remove(pump, reader)

    asyncio.run(live())


def test_a_page_that_cannot_be_read_is_read_again(
    store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    log.append(0, 0)
    store.failures = 1

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, 1)
        task = pump.outlets[reader]
        assert task is not None
        await task
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
            f"A connection of session {log.pk} was not fed"
        ]
        pump.reconcile(await aside(log.reconciled))
        await reader.wait_got([0, 1])
        remove(pump, reader)

    asyncio.run(live())


def test_a_slow_reader_is_not_sent_more_than_it_takes_and_delays_nobody(store: FlakyStore) -> None:
    log = Log()
    log.append(*[100] * 50)

    async def live() -> None:
        pump = Pump(store, log.pk)
        slow, fast = Reader(room=1), Reader()
        attach(pump, slow, 49)
        attach(pump, fast, 49)
        await fast.wait_got(list(range(50)))
        await slow.wait_got([0])
        pump.take(await aside(log.append, 0), 50)
        assert fast.got[-1] == 50
        assert slow.got == [0]
        for number in range(1, 51):
            slow.allow(1)
            await slow.wait_got(list(range(number + 1)))
        remove(pump, slow)
        remove(pump, fast)

    asyncio.run(live())


def test_a_closed_connection_counts_nothing_as_sent(store: FlakyStore) -> None:
    log = Log()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, -1)
        reader.closed = True
        pump.take(await aside(log.append, 0, 0), 1)
        assert (reader.cursor, reader.got) == (-1, [])
        remove(pump, reader)

    asyncio.run(live())


def test_a_connection_that_closes_in_the_middle_of_a_page_counts_no_more_of_it_as_sent(
    store: FlakyStore,
) -> None:
    log = Log()
    log.append(0, 0, 0)

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader(room=1)
        attach(pump, reader, 2)
        await reader.wait_got([0])
        task = pump.outlets[reader]
        assert task is not None
        reader.closed = True
        reader.allow(0)
        await task
        assert (reader.cursor, reader.got) == (0, [0])
        remove(pump, reader)

    asyncio.run(live())


def test_the_tail_is_bounded_whatever_comes(store: FlakyStore) -> None:
    log = Log()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, -1)
        for number in range(3000):
            pump.take([(number, f'{{"id":{number},"x":"{"x" * 5000}"}}')], number)
        kept = sum(len(packet) for _, packet in pump._tail)
        assert pump_module.TAIL_CHARACTERS - 6000 < kept <= pump_module.TAIL_CHARACTERS
        pump.take([(3000, f'{{"id":3000,"x":"{"x" * 2 * pump_module.TAIL_CHARACTERS}"}}')], 3000)
        assert not pump._tail
        for number in range(3001, 6000):
            pump.take([(number, f'{{"id":{number}}}')], number)
        assert len(pump._tail) == pump_module.TAIL_EVENTS
        remove(pump, reader)

    asyncio.run(live())


def test_events_of_which_only_the_number_travels_are_read_at_once(store: FlakyStore) -> None:
    log = Log()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, -1)
        stored = await aside(log.append, 0, 0)
        pump.take([], stored[-1][0])
        await reader.wait_got([0, 1])
        remove(pump, reader)

    asyncio.run(live())


def test_an_event_larger_than_the_tail_comes_from_the_log(store: FlakyStore) -> None:
    log = Log()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, -1)
        pump.take(await aside(log.append, 0, 3 * pump_module.TAIL_CHARACTERS, 0), 2)
        await reader.wait_got([0, 1, 2])
        assert reader.data == [data for _, data in log.events]
        remove(pump, reader)

    asyncio.run(live())


def test_a_batch_is_arrays_until_it_has_caught_up_and_single_events_then(store: FlakyStore) -> None:
    log = Log()
    log.append(*[0] * 700)

    async def live() -> None:
        pump = Pump(store, log.pk)
        live_one, reader, near = Reader(cursor=699), Reader(batch=True), Reader(cursor=704, batch=True)
        attach(pump, live_one, 699)
        for _ in range(10):
            pump.take(await aside(log.append, 0), log.head)
        attach(pump, reader, log.head)
        attach(pump, near, log.head)  # the cursor is within the tail, but there is a replay all the same
        await reader.wait_got(list(range(710)))
        await near.wait_got(list(range(705, 710)))
        pump.take(await aside(log.append, 0), log.head)
        names = [json.loads(packet[1:])[0] for packet in reader.packets]
        assert names == ["oh_events"] * 3 + ["oh_event"]
        assert [len(json.loads(packet[1:])[1]) for packet in reader.packets[:3]] == [300, 300, 110]
        assert [json.loads(packet[1:])[0] for packet in near.packets] == ["oh_events", "oh_event"]
        for one in (live_one, reader, near):
            remove(pump, one)

    asyncio.run(live())


def test_a_connection_behind_a_trimmed_log_is_told_to_start_anew(store: FlakyStore) -> None:
    log = Log()
    log.append(*[0] * 5)
    Event.objects.filter(session=log.pk, number__lt=3).delete()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader(cursor=0)
        attach(pump, reader, 3)  # the last event was stored since, and nobody has heard of it
        await reader.wait_got([3, 4])
        assert reader.restarts == [(3, 4)]
        remove(pump, reader)

    asyncio.run(live())


def test_who_comes_while_those_attached_are_counted_is_counted_as_well(
    store: FlakyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "PRESENCE_PAUSE", 0.0)
    log = Log()

    async def live() -> None:
        pump = Pump(store, log.pk)
        reader = Reader()
        attach(pump, reader, -1)
        store.gate = asyncio.Event()
        counting = asyncio.create_task(pump.tell_presence())
        await store.read_ended.wait()
        await aside(log.connect, "late")
        await pump.tell_presence()  # leaves the count to the call that is under way
        store.gate.set()
        await counting
        await pump.tell_presence()
        counts = [json.loads(packet)["connections"] for packet in reader.packets]
        assert counts == [0, 1, 1]
        remove(pump, reader)

    asyncio.run(live())


def test_ten_thousand_events_are_replayed_within_seconds(store: FlakyStore) -> None:
    log = Log()
    log.append(*[400] * 10_000)

    async def live() -> float:
        pump = Pump(store, log.pk)
        reader = Reader()
        started = asyncio.get_running_loop().time()
        attach(pump, reader, log.head)
        await reader.wait_got(list(range(10_000)))
        remove(pump, reader)
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(live()) < 3.0  # 0.3 s on an idle machine of two cores
