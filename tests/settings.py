"""The reference site as tests want it: a key, no HTTPS, fast passwords. DATABASE_URL and REDIS_URL count."""

import os

os.environ.setdefault("DJANGO_SECRET_KEY", "for tests only")
os.environ.setdefault("DJANGO_HTTPS", "0")

from project.settings import *  # noqa: F403

MEDIA_ROOT = ""
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
