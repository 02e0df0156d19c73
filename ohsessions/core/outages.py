"""What is away fails again and again. The log tells once that it began, and once that it is over."""

from __future__ import annotations

import logging
import threading


class Outage:
    """Whether one thing is away, as those know who use it. They may be in any thread.

    `verb` stands in the log lines' `extra` as `<verb>_lost` and `<verb>_back`.
    """

    def __init__(self, logger: logging.Logger, what: str, verb: str) -> None:
        self._logger = logger
        self._what = what
        self._verb = verb
        self._lock = threading.Lock()
        self.lasts = False

    def failed(self, problem: object) -> None:
        """It failed, for the first time or again."""
        with self._lock:
            begins, self.lasts = not self.lasts, True
        if begins:
            self._logger.warning("%s fails: %s", self._what, problem, extra={"verb": f"{self._verb}_lost"})

    def worked(self) -> None:
        """It worked, again or as always."""
        if not self.lasts:
            return
        with self._lock:
            ends, self.lasts = self.lasts, False
        if ends:
            self._logger.info("%s works again.", self._what, extra={"verb": f"{self._verb}_back"})
