"""One attack on a fresh server: the times before, during and after it, and the broken bounds."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attack.attacker import OVERTIME
from tests.attack.victim import Holdings, Victim
from tests.attack.world import CANARY, Attack

QUIET = 6.0
SETTLE = 25.0
"""Seconds within which everything that an attack left must have ended."""
TIMES_QUIET = 10.0
MOST_SECONDS = 1.0
MOST_MEGABYTES = 50.0
KEPT_MEGABYTES = 20.0
"""Megabytes more than before that may remain: allocators do not return every page."""
SOCKETS_OF_OURS = 2
SAMPLE = 0.1
STEADY = 3.0


@dataclass(slots=True)
class Trial:
    """The measurements. Times are in seconds, sizes in megabytes."""

    attack: Attack
    quiet: float = 0.0
    busy: float = 0.0
    worst: float = 0.0
    cuts: int = 0
    lost: int = 0
    before: Holdings | None = None
    after: Holdings | None = None
    peak: float = 0.0
    programs: int = 0
    lived: bool = True
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    patience: float = 1.0

    def faults(self) -> list[str]:
        """Return the bounds that were broken, in words."""
        return list(self._faults())

    def _faults(self) -> Iterator[str]:
        if not self.lived:
            yield from self.problems or ["the server ended"]
            return
        assert self.before is not None
        assert self.after is not None
        if self.busy >= TIMES_QUIET * self.quiet or self.busy >= MOST_SECONDS * self.patience:
            yield f"p99 {self.busy * 1000:.0f} ms"
        if self.cuts or self.lost:
            yield f"the neighbour was cut off {self.cuts} times, {self.lost} echoes never came"
        if self.peak - self.before.megabytes >= MOST_MEGABYTES:
            yield f"+{self.peak - self.before.megabytes:.0f} MB"
        if self.after.megabytes - self.before.megabytes >= KEPT_MEGABYTES:
            yield f"+{self.after.megabytes - self.before.megabytes:.0f} MB for good"
        if self.after.sockets > self.before.sockets + SOCKETS_OF_OURS:
            yield f"{self.after.sockets - self.before.sockets} sockets stay open"
        for what in ("connections", "awake", "programs"):
            more = getattr(self.after, what) - getattr(self.before, what)
            if more > 0:
                yield f"{more} {what} stay"
        if self.programs - self.before.programs > self.attack.most_programs:
            yield f"{self.programs - self.before.programs} programs at once"
        yield from self.problems


class Echoes:
    """The measurements of the well-behaved client, read in a thread as they come."""

    def __init__(self, victim: Victim) -> None:
        self.records: list[dict[str, Any]] = []
        self.process = victim.spawn("neighbour", str(victim.port), victim.cookie)
        self._thread = threading.Thread(target=self._read, name="echoes")
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.records.append(json.loads(line))

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._thread.join()
        assert self.process.stderr is not None
        errors = self.process.stderr.read().decode()
        assert not self.process.returncode, errors

    def took(self, begin: float, end: float) -> list[float]:
        """Return the durations of the echoes that were due in this time, in seconds, sorted."""
        return sorted(r["took"] for r in self.records if "at" in r and begin <= r["at"] < end)

    def count(self, what: str, begin: float, end: float) -> int:
        """Return the number of `lost` echoes, or of `cut` connections."""
        if what == "cut":
            return sum(begin <= r["cut"] < end for r in self.records if "cut" in r)
        return sum(begin <= r["at"] < end for r in self.records if r.get("lost"))


def percentile(sorted_values: list[float], share: float) -> float:
    if not sorted_values:
        return float("inf")
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def play(attack: Attack, folder: Path, seconds: float, patience: float = 1.0) -> Trial:
    """Start a server, attack it, and return the measurements."""
    trial = Trial(attack, patience=patience)
    victim = Victim(folder, debug=attack.debug, environment=attack.environment, **attack.settings)
    victim.start()
    echoes: Echoes | None = None
    try:
        _attack(victim, "warm", 1.0)
        echoes = Echoes(victim)
        _wait_for_echoes(echoes)
        quiet = time.monotonic(), time.monotonic() + QUIET
        time.sleep(QUIET)
        trial.before = _steady(victim)
        begin = time.monotonic()
        with _watched(victim, trial):
            found = _attack(victim, attack.name, max(seconds, attack.seconds))
            end = time.monotonic()
            trial.lived = victim.lives
            if trial.lived:
                trial.after = _settled(victim, trial.before)
        trial.problems, trial.counts = found["problems"], found["counts"]
        trial.problems += [f"a secret stands in {place}" for place in victim.places_of(CANARY)]
        echoes.end()
        trial.quiet = percentile(echoes.took(*quiet), 0.99)
        busy = echoes.took(begin, end)
        trial.busy, trial.worst = percentile(busy, 0.99), busy[-1] if busy else float("inf")
        trial.cuts, trial.lost = echoes.count("cut", begin, end), echoes.count("lost", begin, end)
    finally:
        if echoes is not None and echoes.process.poll() is None:
            echoes.process.kill()
        victim.kill()
    return trial


def _attack(victim: Victim, name: str, seconds: float) -> dict[str, Any]:
    process = victim.spawn("attacker", name, str(victim.port), str(seconds))
    try:
        output, errors = process.communicate(timeout=seconds + 2 * OVERTIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"problems": ["the attack did not come to its end"], "counts": {}}
    assert not process.returncode, errors.decode()
    found: dict[str, Any] = json.loads(output)
    return found


def _wait_for_echoes(echoes: Echoes) -> None:
    end = time.monotonic() + 20
    while sum("at" in record for record in echoes.records) < STEADY / 0.05:
        assert time.monotonic() < end, f"no echoes: {echoes.records[-3:]}"
        time.sleep(0.1)


def _steady(victim: Victim) -> Holdings:
    """Return the holdings of the idle server, when everything that warm() made has ended."""
    end = time.monotonic() + SETTLE
    while (now := victim.holdings()).connections > 1 or now.awake > 1:
        assert time.monotonic() < end, f"the site does not come to rest: {now}"
        time.sleep(0.2)
    return now


def _settled(victim: Victim, before: Holdings) -> Holdings:
    """Return the holdings when they are as before, or after SETTLE seconds."""
    end = time.monotonic() + SETTLE
    while True:
        now = victim.holdings()
        same = now.connections <= before.connections and now.awake <= before.awake
        same = same and now.programs <= before.programs and now.sockets <= before.sockets + SOCKETS_OF_OURS
        if (same and now.megabytes < before.megabytes + KEPT_MEGABYTES) or time.monotonic() > end:
            return now
        time.sleep(0.25)


@contextmanager
def _watched(victim: Victim, trial: Trial) -> Iterator[None]:
    """Measure memory and programs again and again, in a thread, inside the block."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(SAMPLE) and victim.lives:
            trial.peak = max(trial.peak, victim.memory())
            if trial.attack.most_programs > 4:
                trial.programs = max(trial.programs, victim.holdings().programs)

    thread = threading.Thread(target=look, name="watch")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
