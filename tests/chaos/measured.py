"""Durations that nothing disturbed. Disturbed ones are only counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def percentile(values: list[float], part: float) -> float:
    """Return the smallest value that is not below this part of all values; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Durations in seconds, and the number of further ones that something disturbed. Runs can be added up."""

    values: list[float]
    set_aside: int
    parts: tuple[float, ...] = (0.5, 0.99, 1.0)
    """The percentiles that are shown."""

    def __str__(self) -> str:
        numbers = "/".join(f"{percentile(self.values, part):.2f}" for part in self.parts)
        return f"{numbers} s ({len(self.values)} measured, {self.set_aside} set aside as disturbed)"


def pool(all_measured: Iterable[Measured]) -> Measured:
    """Return the measurements of all runs, as if they were of one run."""
    every = list(all_measured)
    values = [value for one in every for value in one.values]
    return Measured(values, sum(one.set_aside for one in every), every[0].parts)
