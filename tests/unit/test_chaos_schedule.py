"""The faults of a run of the chaos harness."""

from __future__ import annotations

from itertools import pairwise

from tests.chaos.options import Options
from tests.chaos.schedule import make_schedule


def test_a_seed_gives_the_same_faults_each_time_and_another_one_others() -> None:
    assert make_schedule(Options(seed=1)) == make_schedule(Options(seed=1))
    assert make_schedule(Options(seed=1)) != make_schedule(Options(seed=2))


def test_faults_overlap_unless_a_gap_is_asked_for() -> None:
    def overlap(options: Options) -> bool:
        faults = make_schedule(options)
        assert len(faults) > 5
        return any(later.at < one.at + one.seconds + 6.9 for one, later in pairwise(faults))

    assert overlap(Options(faults=("worker_kill", "worker_pause")))
    assert not overlap(Options(faults=("worker_kill", "worker_pause"), fault_gap=7.0))
