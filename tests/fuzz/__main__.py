"""`python -m tests.fuzz --count 1000000 --seed 7`: the program of `make fuzz`. Exits with 1 if an error
escaped.

Each finding is printed with the smallest input that causes it, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys

import django


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="so many inputs, over all targets")
    parser.add_argument("--seed", type=int, help="names the inputs; random if not given, and printed")
    parser.add_argument("--only", default="", help="names of targets, with commas")
    parser.add_argument(
        "--at", type=int, help="with --only: the input of this number alone, and its traceback"
    )
    given = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    logging.disable(logging.WARNING)

    from tests.fuzz import campaign
    from tests.fuzz.targets import TARGETS

    names = {target.name for target in TARGETS}
    wanted = set(filter(None, given.only.split(","))) or names
    if wanted - names:
        parser.error(
            f"there is no target {', '.join(sorted(wanted - names))}; there are {', '.join(sorted(names))}"
        )
    targets = [target for target in TARGETS if target.name in wanted]
    seed = random.randrange(10**6) if given.seed is None else given.seed
    if given.at is not None:
        return asyncio.run(_again(targets[0], seed, given.at))
    print(f"seed {seed}, {given.count:,} inputs", flush=True)
    report = asyncio.run(campaign.run(given.count, seed, targets, lambda text: print(text, flush=True)))
    for finding in report.findings:
        print(finding.describe(seed))
    speed = report.total / max(report.seconds, 1e-9)
    print(
        f"{report.total:,} inputs in {report.seconds:.0f} s ({speed:,.0f}/s), {len(report.findings)} escaped"
    )
    return 1 if report.findings else 0


async def _again(target: object, seed: int, number: int) -> int:
    from tests.fuzz import campaign
    from tests.fuzz.targets import Target

    assert isinstance(target, Target)
    data = campaign.make_input(target, seed, number)
    print(repr(data))
    error = await campaign.try_input(target, data)
    if error is None:
        print("nothing escapes")
        return 0
    import traceback

    traceback.print_exception(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
