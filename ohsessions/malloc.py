"""glibc's malloc, told to give memory back; with another C library nothing here does anything.

It learns from large blocks that were freed: the next ones, up to 32 MB, come from the heap, which keeps them,
in as many arenas as there are threads. A server whose messages have megabytes keeps hundreds of them so.
"""

from __future__ import annotations

import ctypes
from typing import Any

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGE = 256 * 1024
"""Blocks from this many bytes on are mapped one by one, and given back when they are freed."""
ARENAS = 2


def _find(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def give_back_large_blocks() -> None:
    """Have large blocks given back as soon as they are freed. Call it when the process begins."""
    if set_option := _find("mallopt"):
        set_option(M_MMAP_THRESHOLD, LARGE)
        set_option(M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Give back what small blocks have left free."""
    if give_back := _find("malloc_trim"):
        give_back(0)
