"""A campaign: inputs by number, the errors that escape, and the smallest input that causes each."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.fuzz import inputs
from tests.fuzz.targets import TARGETS, Target

TRIES = 3000
"""The number of smaller inputs that are tried for each finding."""
FEW = 3
"""A target that failed this often is not tried again: further failures show nothing new."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke a target, and the smallest input that breaks it in the same way."""

    target: str
    number: int
    data: bytes
    error: BaseException

    def describe(self, seed: int) -> str:
        last = traceback.extract_tb(self.error.__traceback__)[-1]
        return (
            f"{self.target}: {type(self.error).__name__}: {str(self.error)[:200]}\n"
            f"    in {last.name}, {last.filename.rpartition('/')[2]}:{last.lineno}\n"
            f"    input {self.data[:400]!r}{'…' if len(self.data) > 400 else ''}\n"
            f"    again: make fuzz SEED={seed} ARGS='--only {self.target} --at {self.number}'"
        )


@dataclass(slots=True)
class Report:
    """The result of a campaign. `slowest` has each target's slowest input and its seconds."""

    seed: int
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    slowest: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def make_input(target: Target, seed: int, number: int, random: Random | None = None) -> bytes:
    """Return the input of this number."""
    random = random or Random()
    random.seed(f"{seed}/{target.name}/{number}")
    return inputs.make(random, target.seeds, target.structured)


async def try_input(target: Target, data: bytes) -> BaseException | None:
    """Return the error that escapes from the target, or None."""
    try:
        done = target.run(data)
        if inspect.isawaitable(done):
            await done
    except target.declared:
        return None
    except (Exception, RecursionError) as error:
        return error
    return None


async def run(
    count: int,
    seed: int,
    targets: Sequence[Target] = TARGETS,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Pass `count` inputs to the targets, by their weights, and return the report."""
    report = Report(seed)
    begun = time.monotonic()
    whole = sum(target.weight for target in targets)
    for target in targets:
        share = max(1, round(count * target.weight / whole))
        started = time.monotonic()
        await _run_target(report, target, share)
        rate = report.counts[target.name] / max(time.monotonic() - started, 1e-9)
        done, slowest = report.counts[target.name], report.slowest[target.name][0] * 1000
        progress(f"{target.name:<10} {done:>8} inputs {rate:>9,.0f}/s   slowest {slowest:.0f} ms")
    report.seconds = time.monotonic() - begun
    return report


async def _run_target(report: Report, target: Target, share: int) -> None:
    random = Random()
    slowest, at = 0.0, b""
    failed = number = 0
    for number in range(share):
        data = make_input(target, report.seed, number, random)
        before = time.perf_counter()
        error = await try_input(target, data)
        took = time.perf_counter() - before
        if took > slowest:
            slowest, at = took, data
        if error is not None:
            failed += 1
            small, error = await shrink(target, data, error)
            report.findings.append(Finding(target.name, number, small, error))
            if failed == FEW:
                break
        if number % 500 == 0:
            await asyncio.sleep(0)
    report.counts[target.name] = number + 1
    report.slowest[target.name] = slowest, at


async def shrink(target: Target, data: bytes, error: BaseException) -> tuple[bytes, BaseException]:
    """Return the smallest input found that raises the same error, and that error."""
    tries, size = 0, max(1, len(data) // 2)
    while size and tries < TRIES:
        at, smaller = 0, False
        while at < len(data) and tries < TRIES:
            tries += 1
            less = data[:at] + data[at + size :]
            found = await try_input(target, less)
            if found is not None and _is_same(found, error):
                data, error, smaller = less, found, True
            else:
                at += size
        if not smaller:
            size //= 2
    return data, error


def _is_same(one: BaseException, other: BaseException) -> bool:
    """Return whether two errors have one type and come from one line."""
    lines = [traceback.extract_tb(error.__traceback__)[-1] for error in (one, other)]
    return type(one) is type(other) and lines[0].lineno == lines[1].lineno
