"""The app that takes protections away as soon as Django is ready."""

from __future__ import annotations

import os

from django.apps import AppConfig


class Weakened(AppConfig):
    name = "tests.weakened"
    label = "weakened"

    def ready(self) -> None:
        from tests.weakened.protections import take_away

        for name in os.environ["TEST_WITHOUT"].split(","):
            take_away(name.strip())
