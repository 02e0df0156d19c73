"""Log the start and the end of an outage once each, however often the failing call is retried."""

from __future__ import annotations

import logging
import threading


class Outage:
    """The outages of one thing. Any thread may report its failures and successes.

    `verb` appears in the log lines' `extra` as `<verb>_lost` and `<verb>_back`.
    """

    def __init__(self, logger: logging.Logger, what: str, verb: str) -> None:
        self._logger = logger
        self._what = what
        self._verb = verb
        self._lock = threading.Lock()
        self.lasts = False

    def failed(self, problem: object) -> None:
        """Note a failure. Log it if it begins an outage."""
        with self._lock:
            begins, self.lasts = not self.lasts, True
        if begins:
            self._logger.warning("%s fails: %s", self._what, problem, extra={"verb": f"{self._verb}_lost"})

    def worked(self) -> None:
        """Note a success. Log it if it ends an outage."""
        if not self.lasts:
            return
        with self._lock:
            ends, self.lasts = self.lasts, False
        if ends:
            self._logger.info("%s works again.", self._what, extra={"verb": f"{self._verb}_back"})
