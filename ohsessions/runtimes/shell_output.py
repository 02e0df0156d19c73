"""The output of a shell's commands: gathered, bounded, and turned into text in parts.

Bytes go in as they come, at any time; text comes out for the command that runs. This module knows no process.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable

from ohsessions.core.redaction import Redactor

PART_BYTES = 8 * 1024
GATHER_SECONDS = 0.1
"""Both from docs/protocol.md, "The runtimes that ship": one event per 8 KiB or 100 ms."""
ROOM_BYTES = 128 * 1024
"""Bytes that may wait here while events are being stored; beyond that the command has to wait."""
HELD_BYTES = 32 * 1024
"""The newest bytes of background jobs that are kept between two commands."""
SETTLE_TURNS = 4
"""Turns of the event loop without a byte after which a pipe counts as empty: each turn polls it, one more is
needed to wake its reader."""
SETTLE_BYTES = 1024 * 1024
"""Bytes after which settling stops, if a background job prints without end: more than the pipe (64 KiB) and
the buffers hold."""


class OutputBuffer:
    """The buffer between the pipe and the events.

    While no command runs, the output of background jobs is held; it begins the output of the next command.
    The buffer keeps `cap_bytes` of each command. It counts and drops the rest, and a note reports that.
    Secrets are cut out here: two parts may split a secret, which nobody could find in the events any more.
    """

    def __init__(self, cap_bytes: int, redactor: Redactor) -> None:
        self.cap_bytes = cap_bytes
        self.total_bytes = 0
        self._pending = bytearray()
        self._left = 0
        self._dropped = 0
        self._lost_held_bytes = False
        self._holding = True
        self._unbounded = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._clean = redactor.stream()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def begin(self) -> str:
        """Start a command; return a note if earlier output was lost, else an empty string."""
        self._holding = False
        self._unbounded = False
        self._left = self.cap_bytes
        self._dropped = 0
        lost, self._lost_held_bytes = self._lost_held_bytes, False
        return "[earlier output of background jobs is left out]\n" if lost else ""

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        if self._holding:
            self._pending += data
            if len(self._pending) > HELD_BYTES:
                del self._pending[:-HELD_BYTES]
                self._lost_held_bytes = True
        else:
            kept = data[: self._left]
            self._left -= len(kept)
            self._dropped += len(data) - len(kept)
            self._pending += kept
        self.notify()

    def take_part(self) -> str:
        """Return up to 8 KiB as text; an incomplete character waits for the rest of it."""
        part = bytes(self._pending[:PART_BYTES])
        del self._pending[:PART_BYTES]
        self.notify()
        return self._text(part)

    def end(self) -> str:
        """Return the rest of the text, with a note if output was dropped; hold further output again.

        The caller must have taken the full parts before.
        """
        text = self._text(bytes(self._pending), final=True)
        self._pending.clear()
        self._holding = True
        if self._dropped:
            text += f"\n[output cut off: {self._dropped} more bytes are left out]\n"
        return text

    def clear(self) -> None:
        """Drop the output so far."""
        self._pending.clear()
        self._lost_held_bytes = False

    def _text(self, data: bytes, final: bool = False) -> str:
        text = self._decoder.decode(data, final).replace("\0", "\N{REPLACEMENT CHARACTER}")
        return self._clean.feed(text) + (self._clean.flush() if final else "")

    def notify(self) -> None:
        """Have waiting tasks check their conditions again."""
        self._changed.set()

    async def wait_until(self, predicate: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until `predicate` is true, for `seconds` at most; return whether it is.

        It is called again after each change here, and after notify().
        """
        try:
            async with asyncio.timeout(seconds):
                while not predicate():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return predicate()

    async def wait_for_room(self) -> None:
        """Keep the reader of the pipe back while too much is waiting."""
        await self.wait_until(lambda: len(self._pending) < ROOM_BYTES or self._unbounded)

    def lift_bound(self) -> None:
        """Let the reader read on until the next begin(): little can come after the end of a command."""
        self._unbounded = True
        self.notify()

    async def settle(self) -> None:
        """Wait until everything is here that was in the pipe at the time of the call."""
        start = seen = self.total_bytes
        quiet = 0
        self.lift_bound()
        while quiet < SETTLE_TURNS and self.total_bytes - start < SETTLE_BYTES:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.total_bytes == seen else 0
            seen = self.total_bytes
