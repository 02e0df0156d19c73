"""Settings as an operator may see them. Secrets have their own column; this is for rows of older versions."""

from __future__ import annotations

from collections.abc import Collection

from ohsessions.core.runtime import JSON
from ohsessions.core.secret_settings import mask_secrets

REDACTED = "••••••"


def redact(value: JSON, declared: Collection[str] = ()) -> JSON:
    """Return a copy in which every secret is masked: what INIT would keep apart today."""
    return mask_secrets(value, REDACTED, declared)
