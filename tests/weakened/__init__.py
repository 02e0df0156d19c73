"""The reference site without some of its protections: a test that needs one must notice its absence.

`DJANGO_SETTINGS_MODULE=tests.weakened.settings` adds this app to the site. TEST_WITHOUT lists the protections
to take away, separated by commas; see `protections`. TEST_ENDS_TASK names a task of the event loop, which
SIGUSR1 then ends. The package itself has no switch.
"""

from __future__ import annotations

from collections.abc import Iterable

SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.weakened.settings"}


def environment(protections: Iterable[str]) -> dict[str, str]:
    """Return the variables of a process that has to run without these protections; none for no names."""
    names = ",".join(protections)
    return SETTINGS | {"TEST_WITHOUT": names} if names else {}


def ends_task(name: str) -> dict[str, str]:
    """Return the variables of a process in which SIGUSR1 ends the task with this name."""
    return SETTINGS | {"TEST_ENDS_TASK": name}
