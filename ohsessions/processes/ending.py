"""The end of this process by its own decision: an operator drains it, or it can no longer do its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


class Ending:
    """The end of this process. When a program has stopped, it uses `failure` for its exit code."""

    def __init__(self) -> None:
        self.failure: str | None = None
        """The sentence about the first failure; None if nothing failed."""
        self.begin: Callable[[], None] = _terminate
        """The function that begins an orderly stop. A program may set its own."""

    def fail(self, reason: str) -> None:
        """Note a failure, and end this process in order, so that other processes take over at once."""
        if self.failure is None:
            self.failure = reason
            self.begin()


def _terminate() -> None:
    """Send SIGTERM to this process, which stops it in order under any server."""
    os.kill(os.getpid(), signal.SIGTERM)


ending = Ending()
"""The ending of this process."""
