"""The results of several runs, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.checker import Verdict
from tests.chaos.history import History
from tests.chaos.measured import pool


@dataclass(frozen=True, slots=True)
class Result:
    """The part of a run that is kept when its history is dropped."""

    seed: int
    faults: int
    acknowledged: int
    verdicts: list[Verdict]

    @property
    def violations(self) -> int:
        return sum(len(verdict.violations) for verdict in self.verdicts)


def summarize(history: History, verdicts: list[Verdict]) -> Result:
    acknowledged = sum(one.number is not None for one in history.sent)
    return Result(history.options["seed"], len(history.faults), acknowledged, verdicts)


def describe_pool(results: list[Result]) -> Iterator[str]:
    """Yield one line for each number: sums over all runs, and percentiles as if they were of one run."""
    yield f"{len(results)} runs, seeds {', '.join(str(one.seed) for one in results)}"
    yield f"{'faults':<29} {sum(one.faults for one in results)}"
    yield f"{'acknowledged':<29} {sum(one.acknowledged for one in results)}"
    points: Counter[str] = Counter()
    for one in results:
        points.update({verdict.name: len(verdict.violations) for verdict in one.verdicts})
    where = "; ".join(f"{name} {count}" for name, count in points.items() if count)
    total = sum(one.violations for one in results)
    yield f"{'violations':<29} {total}" + f" ({where})" * bool(where)
    failed = [str(one.seed) for one in results if one.violations]
    yield f"{'seeds with violations':<29} {', '.join(failed) or 'none'}"
    for same in zip(*(one.verdicts for one in results), strict=True):
        measured = [verdict.measured for verdict in same if verdict.measured is not None]
        if measured:
            yield f"{same[0].name:<29} {pool(measured)}"
