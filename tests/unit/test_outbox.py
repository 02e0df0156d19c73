"""The events that an activation writes, and the marks that it writes together with them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from ohsessions.core.errors import StaleEpoch, Unavailable, WireError
from ohsessions.journal import Append
from ohsessions.snapshots import Snapshot
from ohsessions.worker import outbox as outbox_module
from ohsessions.worker.outbox import Outbox

LIMIT = 10.0


class Journal:
    """A journal that takes appends, one after the other, while it is open."""

    def __init__(self) -> None:
        self.taken: list[Append] = []
        self.open = asyncio.Event()

    async def append(self, append: Append) -> None:
        self.taken.append(append)
        await self.open.wait()

    def told(self) -> list[tuple[str, int | None, int | None]]:
        """Return the text of each append and its marks: handled, interrupted."""
        return [
            ("".join(event.body for event in one.events), one.handled, one.interrupted) for one in self.taken
        ]


class Refusing(Journal):
    """A journal that raises these errors, one for each append, and takes all later appends."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.open.set()
        self._errors = iter(errors)

    async def append(self, append: Append) -> None:
        await super().append(append)
        for error in self._errors:
            raise error


async def turns(count: int = 10) -> None:
    """Let every task run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("interrupted", [None, 3])
async def test_the_end_of_an_answer_is_stored_with_its_mark_whoever_waited_before_it(
    interrupted: int | None,
) -> None:
    journal = Journal()
    journal.open.set()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    writing = asyncio.create_task(outbox.run())
    async with asyncio.timeout(LIMIT), outbox.paused():
        await outbox.put("agent", "answer", "a")
        await turns()  # the writer waits
        delivered = asyncio.create_task(outbox.flush(interrupted=interrupted))
        await turns()
        await outbox.put("agent", "answer", "b")
        ending = asyncio.create_task(outbox.flush(handled=7))
        await turns()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(ending, delivered)
    await end(writing)
    marked = [("", None, interrupted)] if interrupted else []
    assert journal.told() == [("ab", 7, None), *marked]


async def test_the_end_of_a_long_answer_is_stored_with_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BATCH_CHARACTERS", 1)
    journal = Journal()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    writing = asyncio.create_task(outbox.run())
    for word in "abc":
        await outbox.put("agent", "answer", word)
    await turns()  # the first part is being written
    ending = asyncio.create_task(outbox.flush(handled=7))
    await turns()
    journal.open.set()
    async with asyncio.timeout(LIMIT):
        await ending
    await end(writing)
    assert journal.told() == [("a", None, None), ("b", None, None), ("c", 7, None)]


async def test_a_cancelled_end_of_an_action_stops_nobody_else() -> None:
    journal = Journal()
    journal.open.set()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    async with outbox.paused():
        await outbox.put("agent", "answer", "a")
        ending = asyncio.create_task(outbox.flush(handled=7))
        await turns()
        await end(ending)
    async with asyncio.timeout(LIMIT):
        await outbox.flush()
    assert journal.told() == [("a", None, None)]


async def test_who_emits_when_the_activation_is_over_is_told_so() -> None:
    outbox = Outbox(Journal(), uuid4(), 1)  # type: ignore[arg-type]
    outbox.end()
    with pytest.raises(StaleEpoch):
        await outbox.put("agent", "answer", "a")


async def test_nothing_overtakes_a_write_that_was_refused() -> None:
    refused = WireError(400, "bad", "It cannot be stored.")
    journal = Refusing(refused)
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    await outbox.put("agent", "answer", "a")
    for _ in range(2):
        with pytest.raises(WireError) as error:
            await outbox.flush(handled=7)
        assert error.value is refused
    with pytest.raises(WireError):
        await outbox.put("agent", "answer", "b")
    assert journal.told() == [("a", 7, None)]


async def test_who_emits_faster_than_is_stored_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_EVENTS", 2)
    journal = Journal()
    journal.open.set()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    for word in "ab":
        await outbox.put("agent", "answer", word)
    third = asyncio.create_task(outbox.put("agent", "answer", "c"))
    await turns()
    assert not third.done()
    await outbox.flush()
    async with asyncio.timeout(LIMIT):
        await third
    await outbox.flush()
    assert journal.told() == [("ab", None, None), ("c", None, None)]


async def test_a_write_without_an_answer_is_repeated_under_the_same_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_FIRST", 0.0)
    journal = Refusing(Unavailable(), Unavailable())
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    await outbox.put("agent", "answer", "a")
    await outbox.flush(handled=7)
    assert journal.taken == journal.taken[:1] * 3


async def test_keys_are_unique_over_activations_and_over_a_change_of_the_epoch() -> None:
    journal = Journal()
    journal.open.set()
    first, second = (Outbox(journal, uuid4(), epoch) for epoch in (1, 3))  # type: ignore[arg-type]
    for outbox in (first, first, second):
        await outbox.put("agent", "answer", "a")
    await first.flush()
    first.epoch = 2
    await first.put("agent", "answer", "a")
    for outbox in (first, second):
        await outbox.flush()
    keys = [event.write_key for append in journal.taken for event in append.events]
    assert keys == ["1.1", "1.2", "2.3", "3.1"]


async def test_a_checkpoint_that_comes_while_one_is_stored_is_stored_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = Journal()
    journal.open.set()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]

    async def store(session_id: UUID, value: Any) -> Snapshot:
        if value == "first":
            outbox.checkpoint = ("second",)
        return Snapshot(value)

    monkeypatch.setattr("ohsessions.worker.outbox.snapshots.astore", store)
    outbox.checkpoint = ("first",)
    for _ in range(3):
        await outbox.flush()
    assert [append.checkpoint for append in journal.taken] == [Snapshot("first"), Snapshot("second")]


async def test_a_checkpoint_that_gives_way_to_the_end_of_an_action_is_stored_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = Journal()
    journal.open.set()
    outbox = Outbox(journal, uuid4(), 1)  # type: ignore[arg-type]
    storing, may_store = asyncio.Event(), asyncio.Event()

    async def store(session_id: UUID, value: Any) -> Snapshot:
        storing.set()
        await may_store.wait()
        return Snapshot(value)

    monkeypatch.setattr("ohsessions.worker.outbox.snapshots.astore", store)
    outbox.checkpoint = ("it",)
    other = asyncio.create_task(outbox.flush())
    async with asyncio.timeout(LIMIT):
        await storing.wait()
    ending = asyncio.create_task(outbox.flush(handled=7))
    await turns()
    may_store.set()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(other, ending)
    assert [(append.checkpoint, append.handled) for append in journal.taken] == [
        (Snapshot("it"), None),
        (None, 7),
    ]
