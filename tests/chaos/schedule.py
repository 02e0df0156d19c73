"""The faults of a run and their times: a pure function of the options, so that a seed determines them.

A target has one fault at a time. So has each of PostgreSQL and Redis. Different targets may fail at once,
unless the options ask for a gap between faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.chaos.options import Options

FIRST_AT = 3.0
"""Seconds before the first fault: clients are attached by then."""
RESTART_SECONDS = (0.3, 3.0)
REDIS_SECONDS = (0.5, 8.0)
RECOVERY_SECONDS = 3.0
"""Seconds that a restarted process is left alone, because it needs them to start."""
WEIGHTS = {"worker_kill": 3, "worker_pause": 3, "worker_drain": 2, "gateway_kill": 2, "proxy_cut": 2}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, which begins `at` and lasts `seconds`. `target` is the name of a process, proxy or server;
    `part` is the share of a proxy's connections that it hits."""

    kind: str
    target: str
    at: float
    seconds: float
    part: float = 1.0

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind:<18} {self.target:<10} for {self.seconds:.1f} s"


def make_schedule(options: Options) -> list[Fault]:
    """Return the faults of a run, in order of time."""
    if options.script:
        return sorted((Fault(*fault) for fault in options.script), key=lambda fault: fault.at)
    random = Random(f"{options.seed}/faults")
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    at = FIRST_AT
    kinds = list(options.faults)
    while kinds and at < options.seconds - 1:
        kind = random.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])[0]
        fault = _make(kind, at, random, options)
        if free_at.get(fault.target, 0.0) <= at:
            free_at[fault.target] = at + fault.seconds + RECOVERY_SECONDS
            faults.append(fault)
            at += random.uniform(0.2, 1.8) * options.fault_pause
            if options.fault_gap:
                at = max(at, fault.at + fault.seconds + options.fault_gap)
        else:
            at += 0.2
    return faults


def _make(kind: str, at: float, random: Random, options: Options) -> Fault:
    group, _, what = kind.partition("_")
    if group == "worker":
        target = f"worker{random.randrange(options.workers)}"
    elif group == "gateway":
        target = f"gateway{random.randrange(options.gateways)}"
    elif group == "proxy":
        target = f"proxy{random.randrange(options.gateways)}"
    else:
        target = group
    if what == "pause" and group != "redis":
        seconds = options.lease_ttl + random.uniform(0.5, 2.5)
    elif what in ("flush", "terminate", "cut", "half_close"):
        seconds = 0.0
    elif group == "redis":
        seconds = random.uniform(*REDIS_SECONDS)
    elif group == "proxy":
        seconds = random.uniform(1.0, 7.0)
    else:
        seconds = random.uniform(*RESTART_SECONDS)
    return Fault(kind, target, round(at, 2), round(seconds, 2), round(random.choice((0.3, 1.0)), 2))
