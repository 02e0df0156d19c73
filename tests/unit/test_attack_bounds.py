"""The bounds by which `make attack` judges an attack: each broken one is reported, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.attack.__main__ import describe
from tests.attack.attacker import load
from tests.attack.trial import Trial
from tests.attack.victim import Holdings
from tests.attack.world import ATTACKS

load()
BEFORE = Holdings(megabytes=100, sockets=5, programs=0, connections=1, awake=1)


def trial(after: Holdings = BEFORE, **measured: Any) -> Trial:
    """Return a trial that keeps all bounds, except for the given values."""
    held = {"quiet": 0.02, "busy": 0.1, "worst": 0.2, "peak": 120.0, "before": BEFORE, "after": after}
    return Trial(ATTACKS["pongs"], **held | measured)


def test_an_attack_that_breaks_no_bound_gets_nothing() -> None:
    assert trial().faults() == []
    assert "nothing" in describe(trial())


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"busy": 0.21}, "p99 210 ms"),
        ({"quiet": 0.5, "busy": 1.01}, "p99 1010 ms"),
        ({"busy": float("inf")}, "p99"),
        ({"cuts": 1}, "cut off 1 times"),
        ({"lost": 3}, "3 echoes never came"),
        ({"peak": 151.0}, "+51 MB"),
        ({"after": replace(BEFORE, megabytes=121)}, "+21 MB for good"),
        ({"after": replace(BEFORE, sockets=8)}, "3 sockets stay open"),
        ({"after": replace(BEFORE, connections=2)}, "1 connections stay"),
        ({"after": replace(BEFORE, awake=3)}, "2 awake stay"),
        ({"after": replace(BEFORE, programs=1)}, "1 programs stay"),
        ({"programs": 50}, "50 programs at once"),
        ({"problems": ["the token was read"]}, "the token was read"),
        ({"lived": False}, "the server ended"),
    ],
)
def test_each_bound_that_is_broken_is_said(measured: dict[str, Any], said: str) -> None:
    (fault,) = trial(**measured).faults()
    assert said in fault
    assert f"BROKEN {fault}" in describe(trial(**measured))


def test_patience_lengthens_the_absolute_limit_of_time_only() -> None:
    assert trial(quiet=0.5, busy=2.0, patience=4.0).faults() == []
    assert trial(quiet=0.02, busy=0.21, patience=4.0).faults() == ["p99 210 ms"]


def test_every_attack_says_what_it_does_and_who_answers_for_it() -> None:
    assert len(ATTACKS) > 40
    assert all(one.says and one.part for one in ATTACKS.values())
