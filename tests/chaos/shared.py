"""A session that several clients share: its name, its token, and the times when all of them must be away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.options import RUNTIMES, Options


@dataclass(slots=True)
class SharedSession:
    """The part of a session that its clients know. `away` are the times when all of them must be gone."""

    name: str
    runtime: str
    settings: dict[str, Any]
    client_id: str
    away: list[tuple[float, float]]
    crash_at: float
    """The time at which one of them breaks the runtime: once in a run, so the crash budget suffices."""
    id: str = ""
    token: str = ""
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def back_at(self, now: float) -> float:
        """Return the time at which clients may come back; `now` if they need not be away."""
        return next((end for begin, end in self.away if begin <= now < end), now)


def make_session(options: Options, index: int) -> SharedSession:
    """Return the session of this index: its runtime, and its times without clients."""
    random = Random(f"{options.seed}/session{index}")
    away = []
    at = random.uniform(3.0, 12.0)
    while at < options.seconds:
        length = options.close_delay + random.choice((-0.3, -0.1, 0.1, 0.3, 1.0, 2.5))
        away.append((at, at + max(0.3, length)))
        at += length + random.uniform(4.0, 12.0)
    client_id = f"chaos-{index}-{random.getrandbits(64):016x}"
    settings = {"start_seconds": random.choice((0.0, 0.05, 0.4))}
    crash_at = random.uniform(3.0, options.seconds)
    runtime = RUNTIMES[index % len(RUNTIMES)]
    return SharedSession(f"session{index}", runtime, settings, client_id, away, crash_at)
