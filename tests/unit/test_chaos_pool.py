"""Several runs of the chaos harness, reported as one."""

from __future__ import annotations

from tests.chaos.checker import Verdict, Violation
from tests.chaos.measured import Measured
from tests.chaos.pool import Result, describe_pool


def result(seed: int, times: list[float], set_aside: int, violations: list[Violation]) -> Result:
    measured = Measured(times, set_aside)
    verdicts = [Verdict("lost", "", violations), Verdict("takeover p50/p99/max", "", [], measured)]
    return Result(seed, faults=10 * seed, acknowledged=100 * seed, verdicts=verdicts)


def test_runs_are_added_up_and_their_times_taken_together() -> None:
    results = [result(4, [1.0, 3.0], 5, []), result(5, [2.0], 1, [Violation("a"), Violation("b")])]
    assert list(describe_pool(results)) == [
        "2 runs, seeds 4, 5",
        "faults                        90",
        "acknowledged                  900",
        "violations                    2 (lost 2)",
        "seeds with violations         5",
        "takeover p50/p99/max          2.00/3.00/3.00 s (3 measured, 6 set aside as disturbed)",
    ]


def test_a_pool_in_which_nothing_was_measured_says_so() -> None:
    assert list(describe_pool([result(1, [], 2, [])]))[-2:] == [
        "seeds with violations         none",
        "takeover p50/p99/max          0.00/0.00/0.00 s (0 measured, 2 set aside as disturbed)",
    ]
