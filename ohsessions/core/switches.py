"""Protections that a test may switch off, to show that it detects their absence.

`OHSESSIONS_TEST_SWITCH_OFF` lists their names, separated by commas. It has an effect only if DJANGO_DEBUG is
on: the environment of a deployed site cannot remove a protection.
"""

from __future__ import annotations

import os
from functools import cache

VARIABLE = "OHSESSIONS_TEST_SWITCH_OFF"
NAMES = frozenset({"epoch", "reconcile", "marks"})
"""`epoch`: writes of stale owners are refused. `reconcile`: messages that the layer lost are looked for in
the database. `marks`: the started and handled actions are stored."""


def is_on(name: str) -> bool:
    """Return whether a protection is on. Only a test can switch it off.

    Raises KeyError for a name that is not in NAMES.
    """
    if name not in NAMES:
        raise KeyError(name)
    return name not in _switched_off()


@cache
def _switched_off() -> frozenset[str]:
    """Return the names that are off. They are read once, since they cannot change while a process lives."""
    if os.environ.get("DJANGO_DEBUG", "").strip().lower() not in ("1", "true", "yes", "on"):
        return frozenset()
    return frozenset(word.strip() for word in os.environ.get(VARIABLE, "").split(","))
