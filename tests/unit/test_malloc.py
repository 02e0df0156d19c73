"""Memory that is given back to the system, measured in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEGABYTE = 2**20
SCRIPT = """
import sys
from ohsessions.processes import malloc

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024

if sys.argv[1] == "told":
    malloc.give_back_large_blocks()
# What is freed once teaches malloc to keep blocks of that size; small ones between them keep the heap from
# shrinking.
del [bytes(30 * 2**20)][:]
before, kept = resident(), []
for _ in range(40):
    large = [bytes(4 * 2**20) for _ in range(4)]
    kept += [bytes(200_000)]
    del large
print(resident() - before - 8)
"""


def growth(mode: str) -> int:
    """Return the growth in MB of a process that had at most 16 MB at once, beside 8 MB that it keeps."""
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="It is for glibc")
def test_large_blocks_are_given_back() -> None:
    assert growth("told") < 4 < growth("untold")


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from ohsessions.processes import malloc

    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    malloc.give_back_large_blocks()
    malloc.trim()
