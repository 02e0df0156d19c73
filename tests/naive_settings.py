"""The reference site with USE_TZ off, in a zone that is far from UTC and has no whole hours."""

from project.settings import *  # noqa: F403

USE_TZ = False
TIME_ZONE = "Asia/Kolkata"
