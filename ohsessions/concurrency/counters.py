"""The number of refusals by each limit: one integer per limit, for the log now and for /metrics later."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from ohsessions.core.clock import Clock
from ohsessions.core.errors import WireError

logger = logging.getLogger(__name__)

LOG_EVERY = 60.0
"""Seconds between two log lines about one limit, however often it refuses."""


class Refusals:
    """The refusals by limits in this process. Any thread may count."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}

    def count(self, limit: str) -> None:
        """Count one refusal by `limit`, the name of a setting. There are few of them.

        Log it, unless a line about this limit is younger than LOG_EVERY.
        """
        now = self._clock.monotonic()
        with self._lock:
            self._counts[limit] += 1
            count = self._counts[limit]
            at, before = self._logged.get(limit, (now - LOG_EVERY, 0))
            if now - at < LOG_EVERY:
                return
            self._logged[limit] = (now, count)
        # The line has neither address nor user: the rows of connections have them.
        logger.warning(
            "The limit %s refused %d request(s) (%d since this process began)",
            limit,
            count - before,
            count,
            extra={"verb": "refused"},
        )

    def counts(self) -> dict[str, int]:
        """Return the refusals of each limit since the process began."""
        with self._lock:
            return dict(self._counts)


refusals = Refusals()
"""The refusals of this process."""


def too_fast(limit: str, message: str, wait: float) -> WireError:
    """Return error 429 `rate`, and count it for `limit`, the name of a setting."""
    refusals.count(limit)
    return WireError(429, "rate", message, retry_after=round(wait + 0.0005, 3))


def over_quota(limit: str, message: str, wait: float) -> WireError:
    """Return error 429 `quota`, and count it for `limit`."""
    refusals.count(limit)
    return WireError(429, "quota", message, retry_after=wait)
