"""The objects that an attack uses, and the list of attacks. An attack ends by itself, soon after its time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.attack.sockets import Gone

MODULES = ("web", "packets", "hoards", "sessions")
"""The modules of the attacks, below tests.attack."""
CANARY = "canary9f3c1d77"
"""A part of each secret that an attack plants. It must be found nowhere."""
SHELL = {"shell": {"BACKEND": "ohsessions.runtimes.shell.ShellRuntime"}}
ECHO = {"echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"}}
FLOOD = {"flood": {"BACKEND": "tests.acceptance.flood.FloodRuntime"}}


@dataclass(slots=True)
class World:
    """A server under attack. `problem` notes a success of the attacker; `counts` are for the report."""

    port: int
    seconds: float
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.begun + self.seconds

    @property
    def left(self) -> float:
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    async def repeat(self, one: Callable[[], Awaitable[Any]], workers: int = 1) -> None:
        """Call `one` repeatedly until the time is over, with so many workers. A refusal is no problem."""

        async def work() -> None:
            while self.goes_on:
                try:
                    await one()
                    self.counts["done"] += 1
                except Gone:
                    self.counts["refused"] += 1
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(work() for _ in range(workers)))

    async def together(self, attempts: Iterable[Awaitable[Any]], at_once: int = 200) -> list[Any]:
        """Run all attempts, `at_once` at a time. Return their results; for one that raised, the exception."""
        gate = asyncio.Semaphore(at_once)

        async def one(attempt: Awaitable[Any]) -> Any:
            async with gate:
                return await attempt

        return await asyncio.gather(*(one(attempt) for attempt in attempts), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: its site, its least duration, and the part of the server that must withstand it."""

    name: str
    run: Callable[[World], Awaitable[None]]
    part: str
    debug: bool
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    seconds: float
    """The least duration: some defences are deadlines."""
    most_programs: int
    """The number of processes that may run below the server's during the attack."""
    says: str


ATTACKS: dict[str, Attack] = {}


def attack(
    part: str,
    *,
    debug: bool = False,
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 0.0,
    most_programs: int = 4,
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[World], Awaitable[None]]]:
    """Register an attack under its function's name. The docstring's first line describes it in the report."""

    def register(run: Callable[[World], Awaitable[None]]) -> Callable[[World], Awaitable[None]]:
        says = (run.__doc__ or "").strip().splitlines()[0]
        ATTACKS[run.__name__] = Attack(
            run.__name__, run, part, debug, settings or {}, environment or {}, seconds, most_programs, says
        )
        return run

    return register
