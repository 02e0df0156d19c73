"""`python -m tests.chaos --seconds 120 --seed 1`: what `make chaos` runs. Exits with 1 on any violation."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.options import ALL_FAULTS, Options
from tests.chaos.report import describe, judge, violated
from tests.chaos.run import Run


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    defaults = Options()
    numbers = ("seconds", "seed", "lease_ttl", "heartbeat", "close_delay", "sessions", "clients")
    for name in (*numbers, "patience", "settle_limit", "fault_pause"):
        value = getattr(defaults, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--faults", default=",".join(ALL_FAULTS), help="kinds of faults, with commas")
    parser.add_argument("--switch-off", default="", help="protections to do without: epoch, reconcile, marks")
    parser.add_argument("--keep", action="store_true", help="keep logs and history though all went well")
    parser.add_argument(
        "--script",
        type=_faults,
        default=(),
        metavar="KIND TARGET AT SECONDS, …",
        help="these faults, in place of those of the seed",
    )
    given = vars(parser.parse_args())
    keep = given.pop("keep")
    faults, off = given.pop("faults"), given.pop("switch_off")
    options = Options(**given, faults=_words(faults), switches_off=_words(off))
    return run(options, keep=keep)


def _faults(text: str) -> tuple[tuple[str, str, float, float], ...]:
    split = (fault.split() for fault in text.split(","))
    return tuple((kind, target, float(at), float(seconds)) for kind, target, at, seconds in split)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def run(options: Options, *, keep: bool = False) -> int:
    """One run with its report on standard output; gives the exit code."""
    logging.basicConfig(level=logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="ohsessions-chaos-"))
    print(f"seed {options.seed}, {options.seconds:g} s, in {folder}", flush=True)
    one = Run(options, folder, lambda text: print(text, flush=True))
    history = asyncio.run(one.play())
    verdicts = judge(history)
    for line in describe(history, verdicts):
        print(line)
    print("clients were told:", ", ".join(f"{word} × {count}" for word, count in sorted(one.errors.items())))
    failed = violated(verdicts)
    if failed or keep:
        history.save(folder / "history.jsonl")
        print(f"history and logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
