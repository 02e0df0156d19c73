"""`python -m tests.attack.attacker NAME PORT SECONDS`: one attack, in its own process with low priority.

It prints one line of JSON: the problems that it found, and counts. Its priority is low, since real attackers
use machines of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import resource
import sys

from tests.attack.world import ATTACKS, MODULES, World

OVERTIME = 40.0
"""Seconds after the attack's time within which it must end by itself."""


def load() -> None:
    """Import the attacks, which registers them."""
    for name in MODULES:
        importlib.import_module(f"tests.attack.{name}")


async def play(name: str, world: World) -> None:
    from tests.attack.sessions import warm

    run = warm if name == "warm" else ATTACKS[name].run
    try:
        async with asyncio.timeout(world.seconds + OVERTIME):
            await run(world)
    except Exception as error:
        world.counts[type(error).__name__] += 1
        if not isinstance(error, OSError) and type(error).__name__ not in ("Gone", "TimeoutError"):
            raise


def main() -> None:
    load()
    os.nice(10)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name, port, seconds = sys.argv[1:]
    world = World(int(port), float(seconds))
    asyncio.run(play(name, world))
    print(json.dumps({"problems": world.problems, "counts": dict(world.counts)}))


if __name__ == "__main__":
    main()
