"""The reference site without some of its protections. A test that relies on one must notice its absence.

`DJANGO_SETTINGS_MODULE=tests.weakened.settings` adds this app to the site. TEST_WITHOUT lists the protections
to remove, separated by commas; see `protections`. TEST_ENDS_TASK names a task of the event loop, which
SIGUSR1 ends. The package itself has no such switch.
"""

from __future__ import annotations

from collections.abc import Iterable

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.weakened.settings"}


def environment(protections: Iterable[str]) -> dict[str, str]:
    """Return the environment of a process without these protections; empty if there are none."""
    names = ",".join(protections)
    return SETTINGS | {"TEST_WITHOUT": names} if names else {}


def ends_task(name: str) -> dict[str, str]:
    """Return the environment of a process in which SIGUSR1 ends the task with this name."""
    return SETTINGS | {"TEST_ENDS_TASK": name}
