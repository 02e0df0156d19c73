"""Protections that a test may switch off, to show that it would notice if they were missing.

`OHSESSIONS_TEST_SWITCH_OFF` names them, with commas. It counts only where DJANGO_DEBUG is on: no environment
that a site is deployed with can take a protection away.
"""

from __future__ import annotations

import os
from functools import cache

VARIABLE = "OHSESSIONS_TEST_SWITCH_OFF"
NAMES = frozenset({"epoch", "reconcile", "marks"})
"""`epoch`: stale owners' writes are refused. `reconcile`: what the layer lost is looked for in the database.
`marks`: which actions were started and handled is stored."""


def is_on(name: str) -> bool:
    """Whether a protection is on, as it is everywhere but in a test that asks otherwise.

    Raises KeyError for a name that is not in NAMES.
    """
    if name not in NAMES:
        raise KeyError(name)
    return name not in _switched_off()


@cache
def _switched_off() -> frozenset[str]:
    """Read once: it cannot change while a process lives."""
    if os.environ.get("DJANGO_DEBUG", "").strip().lower() not in ("1", "true", "yes", "on"):
        return frozenset()
    return frozenset(word.strip() for word in os.environ.get(VARIABLE, "").split(","))
