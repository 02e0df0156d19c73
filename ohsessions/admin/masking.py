"""Settings as an operator may see them. Rows of older versions have secrets among them, in clear."""

from __future__ import annotations

from collections.abc import Collection

from ohsessions.core.runtime import JSON
from ohsessions.core.secret_settings import mask_secrets

REDACTED = "••••••"


def redact(value: JSON, declared: Collection[str] = ()) -> JSON:
    """Return a copy in which every secret is masked: every value that INIT would store as a secret today."""
    return mask_secrets(value, REDACTED, declared)
