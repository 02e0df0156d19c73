"""The options of a run: its duration, seed, size and faults."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RUNTIMES = ("count", "retry", "large")
"""Aliases of the counting runtime: plain, with retries of interrupted actions, with large snapshots."""
ALL_FAULTS = (
    "worker_kill",
    "worker_pause",
    "worker_drain",
    "gateway_kill",
    "gateway_pause",
    "gateway_drain",
    "redis_flush",
    "redis_pause",
    "redis_restart",
    "postgres_terminate",
    "postgres_restart",
    "proxy_cut",
    "proxy_delay",
    "proxy_half_close",
    "proxy_freeze",
)


@dataclass(frozen=True, slots=True)
class Options:
    """Times are in seconds. `faults` are the kinds to choose from. `without`: see tests.weakened."""

    seconds: float = 120.0
    seed: int = 1
    lease_ttl: float = 3.0
    heartbeat: float = 0.5
    close_delay: float = 1.0
    gateways: int = 2
    workers: int = 3
    sessions: int = 10
    clients: int = 30
    faults: tuple[str, ...] = ALL_FAULTS
    fault_pause: float = 2.0
    """The mean time between the beginnings of two faults."""
    fault_gap: float = 0.0
    """Seconds of quiet between two faults; 0: they may overlap."""
    script: tuple[tuple[str, str, float, float], ...] = ()
    """Faults to inject in place of those of the seed, as (kind, target, at, seconds)."""
    slow: float = 0.04
    """The share of actions that take a second or so, beside those that are interrupted."""
    without: tuple[str, ...] = ()
    patience: float = 1.0
    """The factor of all time limits, for machines that are busy with other work."""
    settle_limit: float = 40.0
    """Seconds that the quiet phase waits for each thing that must happen in it."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
