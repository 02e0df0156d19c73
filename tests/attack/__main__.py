"""`python -m tests.attack --seconds 10`: the program of `make attack`. Exits with 1 if a bound was broken.

Each attack has a fresh server on SQLite, and a well-behaved client of another address that sends 20 echoes a
second. The client's p99 must stay under one second, and under ten times its p99 before the attack. The server
may grow by 50 MB at most, and must return to its old size. Nothing that the attack made may remain.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.attack.attacker import load
from tests.attack.trial import Trial, play
from tests.attack.world import ATTACKS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each attack lasts at least")
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        help="limits of time are so many times as long: for busy machines",
    )
    parser.add_argument(
        "--nice", type=int, default=0, help="of all of it; below 0 (for root) on a busy machine"
    )
    parser.add_argument(
        "--only", default="", help="names of attacks, or of the parts that answer them, with commas"
    )
    parser.add_argument("--list", action="store_true", help="name the attacks and say what they do")
    parser.add_argument("--keep", action="store_true", help="keep the servers' folders, with their logs")
    given = parser.parse_args()
    load()
    wanted = set(filter(None, given.only.split(",")))
    known = ATTACKS.keys() | {one.part for one in ATTACKS.values()}
    if wanted - known:
        parser.error(f"there is no {', '.join(sorted(wanted - known))}; --list names them")
    attacks = [one for one in ATTACKS.values() if not wanted or {one.name, one.part} & wanted]
    if given.list:
        for one in attacks:
            print(f"{one.name:<30} {one.part:<7} {one.says}")
        return 0
    if given.nice:
        set_priority(given.nice)
    above = Path(tempfile.mkdtemp(prefix="ohsessions-attack-"))
    print(HEADING, flush=True)
    trials = []
    for one in attacks:
        folder = above / one.name
        folder.mkdir()
        try:
            trial = play(one, folder, given.seconds, given.patience)
        except (AssertionError, TimeoutError) as error:
            trial = Trial(one, lived=False, problems=[f"not measured: {str(error)[:200]}"])
        trials.append(trial)
        print(describe(trial), flush=True)
    broken = [trial for trial in trials if trial.faults()]
    print(f"{len(trials)} attacks, {len(broken)} succeed")
    if given.keep:
        print(f"logs: {above}")
    else:
        shutil.rmtree(above, ignore_errors=True)
    return 1 if broken else 0


def set_priority(nice: int) -> None:
    """Set the priority of this process, its children, and their session, which Linux weighs as one."""
    with contextlib.suppress(PermissionError):
        os.setsid()
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


HEADING = (
    f"{'attack':<30} {'part':<7} {'quiet':>7} {'p99':>8} {'worst':>8} {'memory':>8} {'after':>7}  what it got"
)


def describe(trial: Trial) -> str:
    """Return one line of the table: milliseconds and megabytes."""
    before = trial.before.megabytes if trial.before else 0
    after = f"{trial.after.megabytes - before:+.0f} MB" if trial.after else "-"
    faults = trial.faults()
    counts = ", ".join(f"{name} {count}" for name, count in sorted(trial.counts.items()))
    quiet, busy, worst = (seconds * 1000 for seconds in (trial.quiet, trial.busy, trial.worst))
    return (
        f"{trial.attack.name:<30} {trial.attack.part:<7} {quiet:>4.0f} ms"
        f" {busy:>5.0f} ms {worst:>5.0f} ms {trial.peak - before:>+5.0f} MB {after:>7}  "
        f"{'BROKEN ' + '; '.join(faults) if faults else 'nothing'}{f' ({counts})' if counts else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
