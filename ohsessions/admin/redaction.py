"""Settings as an operator may see them. Secrets have their own column; this is for those that strayed."""

from __future__ import annotations

import re

from ohsessions.core.runtime import JSON

REDACTED = "••••••"
_SECRET_NAME = re.compile(r"key|token|passw|pwd|secret|credential|auth|cookie|private|dsn", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


def redact(value: JSON) -> JSON:
    """A copy in which every value under a name that looks secret, and every password in a URL, is masked."""
    if isinstance(value, dict):
        return {
            name: _mask(item) if _SECRET_NAME.search(name) else redact(item) for name, item in value.items()
        }
    if isinstance(value, list):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub(REDACTED, value)
    return value


def _mask(value: JSON) -> JSON:
    # That there is none is worth knowing, and tells nothing.
    return value if value in (None, "", True, False) else REDACTED
