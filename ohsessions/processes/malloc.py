"""Options of glibc's malloc, so that it returns memory. With another C library nothing here has an effect.

malloc adapts to large blocks that were freed: it takes later blocks, up to 32 MB, from the heap. The heap
keeps them, in as many arenas as there are threads. So a server whose messages have megabytes keeps hundreds
of megabytes.
"""

from __future__ import annotations

import ctypes
from typing import Any

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
LARGE = 256 * 1024
"""Blocks from this many bytes on are mapped one by one, and returned when they are freed."""
ARENAS = 2


def _find(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def give_back_large_blocks() -> None:
    """Make malloc return large blocks as soon as they are freed. Call it when the process begins."""
    if set_option := _find("mallopt"):
        set_option(M_MMAP_THRESHOLD, LARGE)
        set_option(M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Return the free memory of small blocks to the system."""
    if give_back := _find("malloc_trim"):
        give_back(0)
