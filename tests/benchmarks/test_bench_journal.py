"""Events per second that the journal stores: with one writer and with fifty, beside one transaction per
event.

The machine's disk determines both numbers, so the test checks their ratio. As clients and runtimes do, each
writer has its own session, and waits for the commit of an event before it appends the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from ohsessions.core.clock import Clock
from ohsessions.database import Database
from ohsessions.journal import Append, commit_appends
from tests.integration.conftest import database, postgres, postgres_settings  # noqa: F401
from tests.integration.world import World, action

SECONDS, ROUNDS = 0.7, 5
"""The measurements alternate, so that other work on the machine slows all of them down."""
BODY = "x" * 400
"""It makes an event of about 500 bytes, as in FACTS."""

Write = Callable[[Append], Awaitable[Any]]


@pytest.fixture
async def made(database: str) -> AsyncIterator[Database]:  # noqa: F811
    made = Database()
    yield made
    await made.close()


async def rate(write: Write, sessions: list[UUID]) -> float:
    """Return the events per second when each session has one writer."""
    end = time.perf_counter() + SECONDS
    count = 0

    async def writer(session_id: UUID) -> None:
        nonlocal count
        while time.perf_counter() < end:
            done = await write(Append(session_id, [action(BODY)]))
            assert done.numbers
            count += 1

    begin = time.perf_counter()
    await asyncio.gather(*map(writer, sessions))
    return count / (time.perf_counter() - begin)


async def test_group_commit_makes_fifty_writers_several_times_faster(database: str, made: Database):  # noqa: F811
    world = await made.write(World, Clock())
    sessions = [(await made.write(world.open)).change.session_id for _ in range(50)]

    async def gathered(one: Append) -> Any:
        return await made.write_gathered(commit_appends, one)

    async def each_alone(one: Append) -> Any:
        return (await made.write_urgently(commit_appends, [one]))[0]

    writes = {"gathered": gathered, "a transaction each": each_alone}
    rates: dict[tuple[str, int], float] = defaultdict(float)
    for _ in range(ROUNDS):
        for name, write in writes.items():
            for writers in (1, 50):
                rates[name, writers] += await rate(write, sessions[:writers]) / ROUNDS
    print()
    for (name, writers), value in rates.items():
        print(f"{database}: {name}, {writers} writers: {value:,.0f} events/s")
    assert rates["gathered", 50] > 3 * rates["a transaction each", 50]
    assert rates["gathered", 1] > 0.6 * rates["a transaction each", 1], "who is alone waits for nobody"
