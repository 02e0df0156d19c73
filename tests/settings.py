"""The reference site's settings for tests: a secret key, no HTTPS, a fast password hasher.

DATABASE_URL and REDIS_URL apply. With OHSESSIONS_TEST_USE_TZ=0 times have no zone; of the integration tests,
test_lifecycle, test_journal, test_gateway, test_host and test_suspects must pass then.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("DJANGO_SECRET_KEY", "for tests only")
os.environ.setdefault("DJANGO_HTTPS", "0")

from project.settings import *  # noqa: F403

if "NAME" in DATABASES["default"].get("TEST", {}):  # noqa: F405
    # One file for each run, since two runs in one checkout would empty each other's tables.
    file = Path(tempfile.gettempdir()) / f"ohsessions-test-{os.getpid()}.sqlite3"
    DATABASES["default"]["TEST"]["NAME"] = file  # noqa: F405
    # No test of this process cuts the power, and to wait for the disk takes a third of the time.
    DATABASES["default"]["OPTIONS"]["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"  # noqa: F405
if os.environ.get("OHSESSIONS_TEST_USE_TZ") == "0":
    USE_TZ = False
    TIME_ZONE = "Asia/Kolkata"
MEDIA_ROOT = ""
# Static files are looked for when they are asked for, and not all of them by each client of a test.
WHITENOISE_AUTOREFRESH = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# The workers of tests must not use the developer's workspaces.
OHSESSIONS = {"WORKSPACE_ROOT": str(Path(tempfile.gettempdir()) / "ohsessions-test-workspaces"), **OHSESSIONS}  # noqa: F405
