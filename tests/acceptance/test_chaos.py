"""A short run of the chaos harness finds nothing. Without a protection it finds what the protection prevents.

Each run is a process of its own with its own PostgreSQL and Redis (see tests.chaos). The limits are patient,
because machines that run tests are busy.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import requirements
from tests.acceptance.site import ROOT
from tests.requirements import require

pytestmark = pytest.mark.timeout(300)


Chaos = Callable[..., tuple[int, str]]


@pytest.fixture
def chaos(tmp_path: Path) -> Chaos:
    """Return a function that makes a run with these options, and returns its exit code and its report."""
    require(requirements.find_redis_server)
    require(requirements.find_socketio_client)
    if requirements.find_postgres_programs() is None:
        pytest.skip("No PostgreSQL: apt-get install postgresql.")

    def run(**options: object) -> tuple[int, str]:
        given = {"patience": 4, "clients": 12, "sessions": 6, "folder": tmp_path} | options
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        command = [sys.executable, "-m", "tests.chaos", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    return run


def test_a_short_run_has_no_violation(chaos: Chaos) -> None:
    code, report = chaos(seconds=20, seed=2)
    assert code == 0, report


def test_a_rolling_restart_under_load_cuts_nothing_off_and_is_no_error_to_anybody(chaos: Chaos) -> None:
    names = ("worker0", "gateway0", "worker1", "gateway1", "worker2")
    stops = ", ".join(f"{name[:-1]}_drain {name} {3 + 3 * at} 0.5" for at, name in enumerate(names))
    code, report = chaos(seconds=18, seed=1, script=stops)
    assert code == 0, report
    assert "told: interrupted" not in report
    assert not re.search(r"clients were told:.* [45]\d\d ", report), report


def test_it_catches_that_stale_writes_are_not_refused(chaos: Chaos) -> None:
    """A worker that was stopped mostly notices the end of its lease before it writes. So several tries are
    needed, during actions that store much."""
    stops = ", ".join(f"worker_pause worker{index % 3} {3 + 3 * index} 4.5" for index in range(6))
    code, report = chaos(seconds=23, seed=1, without="epoch", script=stops, settle_limit=15, slow=0.6)
    assert code == 1, report
    assert "FAILED  stale writes refused" in report


def test_it_catches_that_nobody_looks_for_what_the_layer_lost(chaos: Chaos) -> None:
    script = "redis_restart redis 4 6"
    code, report = chaos(seconds=9, seed=1, without="reconcile", script=script, settle_limit=8)
    assert code == 1, report
    assert "reading to the head" in report or "still has unhandled actions" in report


def test_it_catches_that_marks_are_not_stored(chaos: Chaos) -> None:
    script = "worker_kill worker0 4 1, worker_kill worker1 6 1, worker_kill worker2 8 1"
    code, report = chaos(seconds=11, seed=1, without="marks", script=script, settle_limit=5)
    assert code == 1, report
    assert "FAILED  duplicated" in report
