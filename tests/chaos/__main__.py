"""`python -m tests.chaos --seconds 120 --seed 1`: the program of `make chaos`. Exits with 1 on any violation.

Takeovers are measured only while no other fault disturbs them. To measure nearly all of them, leave a gap
between faults that is a few seconds longer than a lease: --faults worker_kill,worker_pause --fault-gap 7
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.chaos.options import ALL_FAULTS, Options
from tests.chaos.pool import Result, describe_pool, summarize
from tests.chaos.report import describe, judge, violated
from tests.chaos.run import Run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = Options()
    sizes = ("gateways", "workers", "sessions", "clients")
    times = (
        "seconds",
        "lease_ttl",
        "heartbeat",
        "close_delay",
        "settle_limit",
        "fault_pause",
        "fault_gap",
        "slow",
    )
    for name in ("seed", *sizes, *times, "patience"):
        value = getattr(defaults, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--faults", default=",".join(ALL_FAULTS), help="kinds of faults, with commas")
    parser.add_argument("--without", default="", help="protections to do without: epoch, reconcile, marks")
    parser.add_argument("--runs", type=int, default=1, help="so many runs, with seeds from SEED on")
    parser.add_argument(
        "--folder", type=Path, help="where logs and histories go; a temporary folder if not given"
    )
    parser.add_argument("--keep", action="store_true", help="keep logs and history though all went well")
    parser.add_argument(
        "--script",
        type=_faults,
        default=(),
        metavar="KIND TARGET AT SECONDS, …",
        help="these faults, in place of those of the seed",
    )
    given = vars(parser.parse_args())
    keep, folder, runs = given.pop("keep"), given.pop("folder"), given.pop("runs")
    faults, without = given.pop("faults"), given.pop("without")
    options = Options(**given, faults=_words(faults), without=_words(without))
    results = [run(replace(options, seed=options.seed + number), folder, keep=keep) for number in range(runs)]
    if runs > 1:
        for line in describe_pool(results):
            print(line)
    return 1 if any(result.violations for result in results) else 0


def _faults(text: str) -> tuple[tuple[str, str, float, float], ...]:
    split = (fault.split() for fault in text.split(","))
    return tuple((kind, target, float(at), float(seconds)) for kind, target, at, seconds in split)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def run(options: Options, above: Path | None, *, keep: bool = False) -> Result:
    """Play one run, and print its report. Its files are in a folder below `above`."""
    logging.basicConfig(level=logging.CRITICAL)
    if above is not None:
        above.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ohsessions-chaos-", dir=above))
    print(f"seed {options.seed}, {options.seconds:g} s, in {folder}", flush=True)
    one = Run(options, folder, lambda text: print(text, flush=True))
    history = asyncio.run(one.play())
    verdicts = judge(history)
    for line in describe(history, verdicts):
        print(line)
    print("clients were told:", ", ".join(f"{word} × {count}" for word, count in sorted(one.errors.items())))
    if violated(verdicts) or keep:
        history.save(folder / "history.jsonl")
        print(f"history and logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return summarize(history, verdicts)


if __name__ == "__main__":
    sys.exit(main())
