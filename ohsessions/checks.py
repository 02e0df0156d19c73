"""
System checks of the settings. Each reports a mistake at start, with a hint what to write instead.

E001 OHSESSIONS is not a dict          W001 a shell without a sandbox (deploy)
E002 unknown setting                   W002 SQLite without IMMEDIATE or WAL
E003 wrong type                        W003 channel layer in memory (deploy)
E004 value out of range
E005 DEFAULT_RUNTIME is not in RUNTIMES, which may be empty
E006 a runtime's BACKEND cannot be used
E007 no channel layer
E008 ACCESS_POLICY or GITHUB_TOKEN_    W021 ALLOWED_ORIGINS without the site's own
     CHECK cannot be used
E009 a runtime's OPTIONS are wrong
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections
from django.http.request import split_domain_port, validate_host
from django.utils.module_loading import import_string

from ohsessions.access import AccessPolicy
from ohsessions.access.github import AllowedLogins, TokenCheck
from ohsessions.conf import RuntimeEntry, Settings, conf
from ohsessions.core.addresses import HEADERS, parse_networks
from ohsessions.core.runtime import Runtime
from ohsessions.lifecycle.quotas import ACTIONS as QUOTA_ACTIONS

TAG = "ohsessions"
MEMORY_LAYER = "channels.layers.InMemoryChannelLayer"

LEAST = {
    "CLOSE_DELAY": 0,
    "MAX_BUSY": 0,
    "EVENT_RETENTION": 60,
    "EVENT_RETENTION_BYTES": 1024,
    "CONNECTION_RETENTION": 60,
    "PROCESS_RETENTION": 60,
    "TRANSITION_RETENTION": 60,
    "CLOSED_RETENTION": 0,
    "ANONYMOUS_RETENTION": 60,
    "MAX_ACTION_BYTES": 1024,
    "MAX_RUNNING_PER_USER": 1,
    "MAX_RUNNING_PER_ADDRESS": 1,
    "MAX_SESSIONS_PER_VISITOR": 1,
    "MAX_RUNNING_PER_WORKER": 1,
    "HEARTBEAT": 0.05,
    "LEASE_TTL": 0.15,
    "START_TIMEOUT": 0.05,
    "PASSIVATE_TIMEOUT": 0.05,
    "PING_INTERVAL": 0.05,
    "PING_TIMEOUT": 0.05,
    "SLOW_TIMEOUT": 0.05,
    "RATE_LIMIT": 0.01,
    "USER_RATE_LIMIT": 0.01,
    "INIT_RATE": 1,
    "INIT_RATE_PER_USER": 1,
    "INIT_RATE_PER_ADDRESS": 1,
    "START_RATE": 1,
    "MAX_CONNECTIONS_PER_USER": 1,
    "MAX_CONNECTIONS_PER_ADDRESS": 1,
    "MAX_UNATTACHED_PER_ADDRESS": 1,
    "MAX_UNATTACHED": 1,
    "MAX_ACTION_VALUES": 100,
    "PACKET_RATE": 1,
    "BYTE_RATE": 16 * 1024,
    "TOKEN_MAX_AGE": 1,
}


def setting_types() -> dict[str, Any]:
    """Return the type of each setting, as `Settings` declares it."""
    known = typing.get_type_hints(Settings)
    for name, attribute in vars(Settings).items():
        if isinstance(attribute, property) and name.isupper():
            known[name] = typing.get_type_hints(attribute.fget)["return"]
    return known


def fits(value: object, kind: Any) -> bool:
    """Return whether `value` has the type `kind`, one of the types of settings. A bool is no number here."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, args[0]) and fits(v, args[1]) for k, v in value.items()
        )
    if typing.is_typeddict(kind):
        return fits_typed_dict(value, kind)
    if kind is Any:
        return True
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def fits_typed_dict(value: object, kind: Any) -> bool:
    hints = typing.get_type_hints(kind)
    return (
        isinstance(value, dict)
        and kind.__required_keys__ <= value.keys() <= hints.keys()
        and all(fits(item, hints[key]) for key, item in value.items())
    )


def describe(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("ohsessions.conf.", "")


@register(TAG)
def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check names and types first. The values are checked only if these are right: wrong ones would raise."""
    site = getattr(settings, "OHSESSIONS", {})
    if not isinstance(site, Mapping):
        return [
            Error("OHSESSIONS is not a dict.", hint='OHSESSIONS = {"CLOSE_DELAY": 60}', id="ohsessions.E001")
        ]
    return [*names_and_types(site)] or [*values(), *runtimes(), *access_classes()]


def names_and_types(site: Mapping[str, object]) -> Iterator[CheckMessage]:
    known = setting_types()
    for name, value in site.items():
        if name not in known:
            close = difflib.get_close_matches(str(name).upper(), known, n=1)
            yield Error(
                f"OHSESSIONS[{name!r}] is not a setting of ohsessions.",
                hint=f"Did you mean {close[0]!r}?" if close else "docs/settings.md lists them.",
                id="ohsessions.E002",
            )
        elif not fits(value, known[name]):
            yield Error(
                f"OHSESSIONS[{name!r}] is {value!r}, which is not of the type {describe(known[name])}.",
                hint="Write a value of that type, or leave the setting out for its default.",
                id="ohsessions.E003",
            )


def values() -> Iterator[CheckMessage]:
    for name, least in LEAST.items():
        value = getattr(conf, name)
        if value is not None and not value >= least:
            yield out_of_range(f"{name!r}] is {value!r}, less than {least}.", f"At least {least}.")
    if not conf.LEASE_TTL >= 3 * conf.HEARTBEAT:
        yield out_of_range(
            f"'LEASE_TTL'] is {conf.LEASE_TTL}, less than 3 × HEARTBEAT ({conf.HEARTBEAT}).",
            "One late heartbeat must not cost a process its sessions: raise LEASE_TTL or lower HEARTBEAT.",
        )
    if conf.PATH.startswith("/") or not conf.PATH.endswith("/"):
        yield out_of_range(f"'PATH'] is {conf.PATH!r}.", 'Like "socket.io/": no slash before, one after.')
    for origin in conf.ALLOWED_ORIGINS or []:
        if origin != "*" and ("://" not in origin or origin.endswith("/")):
            yield out_of_range(
                f"'ALLOWED_ORIGINS'] has {origin!r}, which no browser sends.",
                'Scheme, host and port without a slash at the end: "https://example.org".',
            )

    if conf.QUOTA_ACTION not in QUOTA_ACTIONS:
        known = " or ".join(QUOTA_ACTIONS)
        yield out_of_range(f"'QUOTA_ACTION'] is {conf.QUOTA_ACTION!r}, which is not known.", f"{known}.")
    yield from proxies()


def proxies() -> Iterator[CheckMessage]:
    for network in conf.TRUSTED_PROXIES:
        try:
            parse_networks((network,))
        except ValueError as error:
            hint = 'The networks of your proxies: ["127.0.0.1", "fd00::/8"]; "unix" stands for a Unix socket.'
            yield out_of_range(f"'TRUSTED_PROXIES'] has {network!r}: {error}.", hint)
    if conf.FORWARDED_HEADER not in HEADERS:
        hint = f"What your proxies extend, in lower case: {' or '.join(HEADERS)}."
        yield out_of_range(f"'FORWARDED_HEADER'] is {conf.FORWARDED_HEADER!r}, which is not read.", hint)


@register(TAG)
def check_own_origin(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Warn if ALLOWED_ORIGINS lists origins, but none of the site's own."""
    origins = conf.ALLOWED_ORIGINS
    if not isinstance(origins, list | tuple) or not origins or "*" in origins:
        return []
    if not all("://" in str(origin) and not str(origin).endswith("/") for origin in origins):
        return []  # values() reports an error already
    names = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    hosts = [str(origin).partition("://")[2] for origin in origins]
    if not names or any(validate_host(split_domain_port(host)[0], names) for host in hosts):
        return []
    return [
        Warning(
            "OHSESSIONS['ALLOWED_ORIGINS'] lists no origin of this site's own: its pages cannot connect.",
            hint="Add it, like https://… with a name of ALLOWED_HOSTS; or silence this check if no page of"
            " this site connects.",
            id="ohsessions.W021",
        )
    ]


def out_of_range(what: str, hint: str) -> CheckMessage:
    return Error(f"OHSESSIONS[{what}", hint=hint, id="ohsessions.E004")


def subclass(path: str, base: type, where: str, what: str, known_as: str, id: str) -> Any:
    """Return the class at a dotted path, or an Error if there is none, or no subclass of `base`."""
    try:
        found = import_string(path)
    except ImportError as error:
        hint = "The dotted path of a class, from a module on the Python path."
        return Error(f"{where} cannot be imported: {error}", hint=hint, id=id)
    if isinstance(found, type) and issubclass(found, base):
        return found
    return Error(f"{where} is no {what}.", hint=f"Subclass {known_as}.", id=id)


def runtimes() -> Iterator[CheckMessage]:
    if conf.DEFAULT_RUNTIME not in conf.RUNTIMES:
        yield Error(
            f"OHSESSIONS['DEFAULT_RUNTIME'] is {conf.DEFAULT_RUNTIME!r}, which RUNTIMES does not have.",
            hint=f"One of: {', '.join(sorted(conf.RUNTIMES)) or 'none, since RUNTIMES is empty'}.",
            id="ohsessions.E005",
        )
    for alias, entry in conf.RUNTIMES.items():
        where = f"The BACKEND of the runtime {alias!r}, {entry['BACKEND']!r},"
        backend = subclass(
            entry["BACKEND"], Runtime, where, "runtime", "ohsessions.Runtime", "ohsessions.E006"
        )
        if isinstance(backend, CheckMessage):
            yield backend
            continue
        for mistake in backend.check(entry.get("OPTIONS", {})):
            yield Error(
                f"The OPTIONS of the runtime {alias!r} are wrong: {mistake}",
                hint=f"The docstring of {backend.__name__} says what it takes.",
                id="ohsessions.E009",
            )


def access_classes() -> Iterator[CheckMessage]:
    """Check ACCESS_POLICY, GITHUB_TOKEN_CHECK and the settings of GitHub."""
    named: list[tuple[str, type, str]] = [("ACCESS_POLICY", AccessPolicy, "ohsessions.access.AccessPolicy")]
    if conf.GITHUB_TOKEN_CHECK is not None:
        named.append(("GITHUB_TOKEN_CHECK", TokenCheck, "ohsessions.access.github.TokenCheck"))
    for name, base, known_as in named:
        where = f"OHSESSIONS[{name!r}], {getattr(conf, name)!r},"
        found = subclass(getattr(conf, name), base, where, base.__name__, known_as, "ohsessions.E008")
        if isinstance(found, CheckMessage):
            yield found
    if urlsplit(conf.GITHUB_API_URL).scheme not in ("http", "https"):
        yield out_of_range(f"'GITHUB_API_URL'] is {conf.GITHUB_API_URL!r}.", 'Like "https://api.github.com".')
    uses_logins = f"{AllowedLogins.__module__}.{AllowedLogins.__name__}" == conf.GITHUB_TOKEN_CHECK
    if uses_logins and not conf.GITHUB_LOGINS:
        yield out_of_range("'GITHUB_LOGINS'] is empty.", "Name the people of GitHub whom to let in.")


@register(TAG)
def check_channel_layer(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if getattr(settings, "CHANNEL_LAYERS", {}).get("default"):
        return []
    return [
        Error(
            "There is no default channel layer: processes could not wake each other.",
            hint=f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{MEMORY_LAYER}"}}}} for a single process,'
            " channels_redis.pubsub.RedisPubSubChannelLayer for more.",
            id="ohsessions.E007",
        )
    ]


@register(TAG, Tags.database)
def check_sqlite(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for alias in databases or []:
        options = connections[alias].settings_dict.get("OPTIONS", {})
        if connections[alias].vendor != "sqlite":
            continue
        immediate = str(options.get("transaction_mode", "")).upper() == "IMMEDIATE"
        wal = "journal_mode=wal" in options.get("init_command", "").lower().replace(" ", "")
        if not (immediate and wal):
            messages.append(
                Warning(
                    f"The SQLite database {alias!r} would fail with 'database is locked' under load.",
                    hint='OPTIONS = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command":'
                    ' "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}',
                    id="ohsessions.W002",
                )
            )
    return messages


@register(TAG, deploy=True)
def check_shell(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.DEBUG:
        return []
    return [
        Warning(
            f"The runtime {alias!r} lets whoever starts a session reach the worker's host, or its network.",
            hint="Install bubblewrap, with the options `sandbox` and `network` at their defaults; or take the"
            " runtime out of RUNTIMES; or isolate the workers and silence this check.",
            id="ohsessions.W001",
        )
        for alias, entry in conf.RUNTIMES.items()
        if not is_isolated(entry)
    ]


def is_isolated(entry: RuntimeEntry) -> bool:
    """Return whether an entry of RUNTIMES isolates its users from the host, as a shell in a sandbox does."""
    try:
        backend = import_string(entry["BACKEND"])
        return bool(backend.is_isolated(entry.get("OPTIONS", {})))
    except (ImportError, AttributeError):
        return True


@register(TAG, deploy=True)
def check_memory_layer(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    layer = getattr(settings, "CHANNEL_LAYERS", {}).get("default", {})
    if layer.get("BACKEND") != MEMORY_LAYER:
        return []
    return [
        Warning(
            "The channel layer is in memory: a second process would learn of everything late.",
            hint="Use Redis (REDIS_URL), or silence this check if one process is all there is.",
            id="ohsessions.W003",
        )
    ]
