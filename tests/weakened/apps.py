"""The Django app that removes protections when Django is ready, and ends a task at a signal."""

from __future__ import annotations

import asyncio
import os
import signal

from django.apps import AppConfig


class Weakened(AppConfig):
    name = "tests.weakened"
    label = "weakened"

    def ready(self) -> None:
        from tests.weakened.protections import take_away

        for name in filter(None, os.environ.get("TEST_WITHOUT", "").split(",")):
            take_away(name.strip())
        if "TEST_ENDS_TASK" in os.environ:
            signal.signal(signal.SIGUSR1, end_task)


def end_task(number: int, frame: object) -> None:
    """Cancel the task that TEST_ENDS_TASK names, like a CancelledError that a library let out."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == os.environ["TEST_ENDS_TASK"])
    task.cancel()
