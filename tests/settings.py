"""
The reference site as tests want it: a key, no HTTPS, fast passwords. DATABASE_URL and REDIS_URL count.

With OHSESSIONS_TEST_USE_TZ=0 times have no zone. Of the integration tests
test_lifecycle, test_journal, test_gateway, test_host and test_suspects have to pass.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("DJANGO_SECRET_KEY", "for tests only")
os.environ.setdefault("DJANGO_HTTPS", "0")

from project.settings import *  # noqa: F403

if "NAME" in DATABASES["default"].get("TEST", {}):  # noqa: F405
    # One file for each run: two runs in one checkout would empty each other's tables.
    file = Path(tempfile.gettempdir()) / f"ohsessions-test-{os.getpid()}.sqlite3"
    DATABASES["default"]["TEST"]["NAME"] = file  # noqa: F405
if os.environ.get("OHSESSIONS_TEST_USE_TZ") == "0":
    USE_TZ = False
    TIME_ZONE = "Asia/Kolkata"
MEDIA_ROOT = ""
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Workers of tests must not take possession of the developer's.
OHSESSIONS = {"WORKSPACE_ROOT": str(Path(tempfile.gettempdir()) / "ohsessions-test-workspaces"), **OHSESSIONS}  # noqa: F405
