"""Settings for a site all of whose clients are visitors from one address: that of the machine that tests."""

from __future__ import annotations

from typing import Any

NO_LIMITS: dict[str, Any] = dict.fromkeys(
    [
        "RATE_LIMIT",
        "USER_RATE_LIMIT",
        "INIT_RATE",
        "INIT_RATE_PER_USER",
        "INIT_RATE_PER_ADDRESS",
        "START_RATE",
        "MAX_CONNECTIONS_PER_USER",
        "MAX_CONNECTIONS_PER_ADDRESS",
        "MAX_UNATTACHED_PER_ADDRESS",
        "MAX_UNATTACHED",
        "MAX_RUNNING_PER_USER",
        "MAX_RUNNING_PER_ADDRESS",
        "MAX_RUNNING_PER_WORKER",
        "MAX_SESSIONS_PER_VISITOR",
    ]
)
