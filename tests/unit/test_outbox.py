"""What an activation writes, and together with which marks."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from ohsessions.journal import Append
from ohsessions.worker import outbox as outbox_module
from ohsessions.worker.outbox import Outbox

LIMIT = 10.0


class Journal:
    """Takes appends, one after the other, while it is open."""

    def __init__(self) -> None:
        self.taken: list[Append] = []
        self.open = asyncio.Event()

    async def append(self, append: Append) -> None:
        self.taken.append(append)
        await self.open.wait()

    def told(self) -> list[tuple[str, int | None, int | None]]:
        """The words of each append, and its marks: handled, interrupted."""
        return [
            ("".join(event.body for event in one.events), one.handled, one.interrupted) for one in self.taken
        ]


async def turns(count: int = 10) -> None:
    """Lets every task that can run do so."""
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
