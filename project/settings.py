"""
The reference site, configured by its environment (docs/settings.md lists the variables).

The defaults are safe: DEBUG is off, cookies need HTTPS, and a missing secret key is an error. `make run` sets
the variables that a developer's machine needs.
"""

import json
import os
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from ohsessions.conf import Settings
from project.logs import is_no_probe

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"


def flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    if value:
        raise ImproperlyConfigured(f"{name}={value!r} is neither yes nor no: write 1 or 0.")
    return default


def words(name: str, default: list[str]) -> list[str]:
    value = os.environ.get(name)
    return default if value is None else [word.strip() for word in value.split(",") if word.strip()]


def secret(name: str) -> str | None:
    """Return the variable's value, or the content of the file that NAME_FILE names, or None."""
    if value := os.environ.get(name):
        return value
    file = os.environ.get(f"{name}_FILE")
    return Path(file).read_text().strip() if file else None


DEBUG = flag("DJANGO_DEBUG", False)


def find_secret_key() -> str:
    if key := secret("DJANGO_SECRET_KEY"):
        return key
    file = VAR_DIR / "secret_key"
    if file.exists():
        return file.read_text().strip()
    if DEBUG:
        return "insecure: for development only, since DEBUG is on and there is no var/secret_key"
    raise ImproperlyConfigured(
        "There is no secret key. Set DJANGO_SECRET_KEY to a long random string, the same for all processes of"
        " the site; `make run` makes one in var/secret_key for a single machine."
    )


SECRET_KEY = find_secret_key()
ALLOWED_HOSTS = words("DJANGO_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = words("DJANGO_CSRF_TRUSTED_ORIGINS", [])

INSTALLED_APPS = [
    "ohsessions",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.content_security_policy",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "project.logins.slow_password_guessing",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "admin:login"
# The cache counts the tries to log in, in each process by itself. Many addresses must not evict each other.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    }
}
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Static files are served from the apps, unless they were collected for a CDN or a proxy.
STATIC_URL = "/static/"
STATIC_ROOT = os.environ.get("DJANGO_STATIC_ROOT")
STATICFILES_DIRS = [path for path in [BASE_DIR / "project" / "static"] if path.is_dir()]
WHITENOISE_USE_FINDERS = DEBUG or STATIC_ROOT is None
WHITENOISE_AUTOREFRESH = DEBUG

# Large snapshots of sessions. Nothing serves these files. Workers on several hosts must share them.
MEDIA_ROOT = os.environ.get("DJANGO_MEDIA_ROOT", VAR_DIR / "files")

# With HTTPS `check --deploy` reports nothing. Two checks are silenced (HSTS for sub-domains, and browsers'
# preload lists), because only the site's owner knows what else its domain serves.
HTTPS = flag("DJANGO_HTTPS", not DEBUG)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SECURE_HSTS_SECONDS = int(os.environ.get("DJANGO_HSTS_SECONDS", 3600 if HTTPS else 0))
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
if flag("DJANGO_TRUST_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")


def read_ohsessions() -> dict[str, Any]:
    """Return the settings from ``OHSESSIONS_<NAME>``: JSON, or else a string. Unknown names are not refused
    here: the system checks report them."""
    site: dict[str, Any] = {}
    for variable, value in os.environ.items():
        name = variable.removeprefix("OHSESSIONS_")
        if name == variable or name.startswith(("TEST_", "BENCH_")):
            continue
        if name.endswith("_FILE"):
            name, value = name.removesuffix("_FILE"), Path(value).read_text()
        try:
            site[name] = json.loads(value)
        except ValueError:
            site[name] = value
    return site


OHSESSIONS = read_ohsessions()


def read_database() -> dict[str, Any]:
    url = os.environ.get("DATABASE_URL")
    if not url:
        VAR_DIR.mkdir(exist_ok=True)
        url = f"sqlite:///{VAR_DIR / 'db.sqlite3'}"
    database: dict[str, Any] = dict(dj_database_url.parse(url))
    if password := secret("DATABASE_PASSWORD"):
        database["PASSWORD"] = password
    # After a restart of the database, the pool's old connections are detected before they are used.
    database["CONN_HEALTH_CHECKS"] = True
    options = database.setdefault("OPTIONS", {})
    if database["ENGINE"].endswith("sqlite3"):
        # A transaction that reads before it writes cannot wait for a lock. IMMEDIATE takes the lock at BEGIN.
        options.setdefault("transaction_mode", "IMMEDIATE")
        options.setdefault("timeout", 20)
        options.setdefault("init_command", "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        # Tests use several threads, as the server does. They cannot share a database in memory.
        database["TEST"] = {"NAME": VAR_DIR / "test.sqlite3"}
    elif database["ENGINE"].endswith("postgresql"):
        # A process must not wait for a lock, or hold one idly, until its lease has expired.
        lease = float(OHSESSIONS.get("LEASE_TTL", Settings.LEASE_TTL))
        options.setdefault("pool", {"min_size": 1, "max_size": 16, "timeout": 5, "reconnect_timeout": 5})
        # A host that vanished does not answer. By default a connection to it fails after a quarter of an hour
        # or never, and a try to connect after two minutes.
        options.setdefault("connect_timeout", 3)
        options.setdefault("tcp_user_timeout", round(lease * 1000))
        options.setdefault("keepalives_idle", 5)
        options.setdefault("keepalives_interval", 2)
        options.setdefault("keepalives_count", 3)
        options.setdefault(
            "options",
            f"-c lock_timeout={lease * 500:.0f} -c idle_in_transaction_session_timeout={lease * 800:.0f}",
        )
    return database


DATABASES = {"default": read_database()}

# Pub/sub is 5 times as fast, and loses nothing under load (measured). With both, the database is the truth.
REDIS_LAYERS = {
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "core": "channels_redis.core.RedisChannelLayer",
}
if REDIS_URL := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS: dict[str, Any] = {
        "default": {
            "BACKEND": REDIS_LAYERS[os.environ.get("REDIS_LAYER", "pubsub")],
            # The core layer waits for messages in reads of 5 s. redis-py (from 8 on) treats a read of 5 s as
            # failed: each idle process would stop listening for a second, and join all its groups again.
            "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": 10}], "prefix": "ohsessions"},
        }
    }
else:
    # One process. A burst in one turn of the event loop reaches the default capacity of 100.
    CHANNEL_LAYERS = {
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 10_000}}
    }

LOG_LEVEL = os.environ.get("DJANGO_LOG_LEVEL", "INFO")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "project.logs.LineFormatter",
            "style": "{",
            "format": "{asctime} {levelname} {name}: {message}",
        }
    },
    "filters": {"no_probes": {"()": "django.utils.log.CallbackFilter", "callback": is_no_probe}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "ohsessions": {"level": LOG_LEVEL},
        # It logs a traceback per message that it cannot receive. ohsessions logs once that Redis is gone.
        "channels_redis": {"level": "CRITICAL"},
        # For the same reason: it logs each try to connect, and each connection that it gives up.
        "psycopg.pool": {"level": "ERROR"},
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.request": {"filters": ["no_probes"]},
    },
}
