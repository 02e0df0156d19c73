"""Work on texts in the event loop: checking an action, beside parsing it; and removing secrets from a text,
and from a text of twice the size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ohsessions.core import wire
from ohsessions.core.redaction import PLACEHOLDER, Redactor

LARGEST = {
    "strings": ["x " * 20] * 100_000,
    "numbers": [1] * 2_000_000,
    "objects": [{"a": 1}] * 500_000,
    "lists": [[1]] * 1_000_000,
    "backslashes": ["\\u0000"] * 300_000,
}


def seconds(job: Callable[[], Any]) -> float:
    """Return the shortest time of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("kind", LARGEST)
def test_checking_the_largest_action(kind: str) -> None:
    value = LARGEST[kind]
    text = json.dumps(value)
    parsed, checked = seconds(lambda: json.loads(text)), seconds(lambda: wire.check_json(value))
    print(f"\n{kind}, {len(text) / 1e6:.1f} MB: checked in {checked / parsed:.1f} times the time of parsing")
    assert json.loads(wire.check_json(value)) == value


def test_cutting_out_a_secret_that_overlaps_itself_everywhere() -> None:
    redactor = Redactor(["a" * 10_000])
    short, long = "a" * 1_500_000, "a" * 3_000_000
    ratio = seconds(lambda: redactor.redact(long)) / seconds(lambda: redactor.redact(short))
    print(f"\ntwice the text: {ratio:.1f} times the time")
    assert redactor.redact(long) == PLACEHOLDER
