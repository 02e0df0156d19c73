"""The settings of the reference site, with the app that removes protections."""

from project.settings import *  # noqa: F403

INSTALLED_APPS += ["tests.weakened.apps.Weakened"]  # noqa: F405
