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
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

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
from ohsessions.core.value_types import describe, fits, is_less
from ohsessions.lifecycle.quotas import ACTIONS as QUOTA_ACTIONS

TAG = "ohsessions"
MEMORY_LAYER = "channels.layers.InMemoryChannelLayer"

Check = Callable[..., list[CheckMessage]]

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
    "HEARTBEAT": 0.05,
    "LEASE_TTL": 0.15,
    "START_TIMEOUT": 0.05,
    "PASSIVATE_TIMEOUT": 0.05,
    "PING_INTERVAL": 0.05,
    "PING_TIMEOUT": 0.05,
    "SLOW_TIMEOUT": 0.05,
    "RATE_LIMIT": 0.01,
    "USER_RATE_LIMIT": 0.01,
    "MAX_ACTION_VALUES": 100,
    "BYTE_RATE": 16 * 1024,
}
"""The smallest values of the numbers for which it is not 1."""


def setting_types() -> dict[str, Any]:
    """Return the type of each setting, as `Settings` declares it."""
    known = typing.get_type_hints(Settings)
    for name, attribute in vars(Settings).items():
        if isinstance(attribute, property) and name.isupper():
            known[name] = typing.get_type_hints(attribute.fget)["return"]
    return known


def check(*, deploy: bool = False) -> Callable[[Callable[[], Iterator[CheckMessage]]], Check]:
    """Register a function that yields messages as a check, or as one of `manage.py check --deploy` alone."""

    def registered(find: Callable[[], Iterator[CheckMessage]]) -> Check:
        def run(app_configs: object = None, **kwargs: Any) -> list[CheckMessage]:
            return list(find())

        return register(run, TAG, deploy=deploy)

    return registered


@check()
def check_settings() -> Iterator[CheckMessage]:
    """Check names and types first. The values are checked only if these are right: wrong ones would raise."""
    site = getattr(settings, "OHSESSIONS", {})
    if isinstance(site, Mapping):
        yield from [*names_and_types(site)] or [*values(), *runtimes(), *access_classes()] or own_origin()
    else:
        yield Error(
            "OHSESSIONS is not a dict.", hint='OHSESSIONS = {"CLOSE_DELAY": 60}', id="ohsessions.E001"
        )


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
    for name in setting_types():
        value, least = getattr(conf, name), LEAST.get(name, 1)
        if is_less(value, least):
            yield out_of_range(name, f"is {value!r}, less than {least}.", f"At least {least}.")
    if not conf.LEASE_TTL >= 3 * conf.HEARTBEAT:
        yield out_of_range(
            "LEASE_TTL",
            f"is {conf.LEASE_TTL}, less than 3 × HEARTBEAT ({conf.HEARTBEAT}).",
            "One late heartbeat must not cost a process its sessions: raise LEASE_TTL or lower HEARTBEAT.",
        )
    if conf.PATH.startswith("/") or not conf.PATH.endswith("/"):
        yield out_of_range("PATH", f"is {conf.PATH!r}.", 'Like "socket.io/": no slash before, one after.')
    for origin in conf.ALLOWED_ORIGINS or []:
        if origin != "*" and ("://" not in origin or origin.endswith("/")):
            yield out_of_range(
                "ALLOWED_ORIGINS",
                f"has {origin!r}, which no browser sends.",
                'Scheme, host and port without a slash at the end: "https://example.org".',
            )
    if conf.QUOTA_ACTION not in QUOTA_ACTIONS:
        known = " or ".join(QUOTA_ACTIONS)
        yield out_of_range("QUOTA_ACTION", f"is {conf.QUOTA_ACTION!r}, which is not known.", f"{known}.")
    yield from proxies()


def proxies() -> Iterator[CheckMessage]:
    for network in conf.TRUSTED_PROXIES:
        try:
            parse_networks((network,))
        except ValueError as error:
            hint = 'The networks of your proxies: ["127.0.0.1", "fd00::/8"]; "unix" stands for a Unix socket.'
            yield out_of_range("TRUSTED_PROXIES", f"has {network!r}: {error}.", hint)
    if conf.FORWARDED_HEADER not in HEADERS:
        hint = f"What your proxies extend, in lower case: {' or '.join(HEADERS)}."
        yield out_of_range("FORWARDED_HEADER", f"is {conf.FORWARDED_HEADER!r}, which is not read.", hint)


def own_origin() -> Iterator[CheckMessage]:
    """Warn if ALLOWED_ORIGINS lists origins, but none of the site's own."""
    origins = conf.ALLOWED_ORIGINS
    names = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if not origins or "*" in origins or not names:
        return
    hosts = [origin.partition("://")[2] for origin in origins]
    if not any(validate_host(split_domain_port(host)[0], names) for host in hosts):
        yield Warning(
            "OHSESSIONS['ALLOWED_ORIGINS'] lists no origin of this site's own: its pages cannot connect.",
            hint="Add it, like https://… with a name of ALLOWED_HOSTS; or silence this check if no page of"
            " this site connects.",
            id="ohsessions.W021",
        )


def out_of_range(name: str, problem: str, hint: str) -> CheckMessage:
    return Error(f"OHSESSIONS[{name!r}] {problem}", hint=hint, id="ohsessions.E004")


def class_mistakes(where: str, path: str, base: type, hint: str, id: str) -> list[CheckMessage]:
    """Return an error if there is no subclass of `base` at this path."""
    try:
        found = import_string(path)
    except ImportError as error:
        hint = "The dotted path of a class, from a module on the Python path."
        return [Error(f"{where}, {path!r}, cannot be imported: {error}", hint=hint, id=id)]
    if isinstance(found, type) and issubclass(found, base):
        return []
    return [Error(f"{where}, {path!r}, is no {base.__name__}.", hint=hint, id=id)]


def runtimes() -> Iterator[CheckMessage]:
    if conf.DEFAULT_RUNTIME not in conf.RUNTIMES:
        yield Error(
            f"OHSESSIONS['DEFAULT_RUNTIME'] is {conf.DEFAULT_RUNTIME!r}, which RUNTIMES does not have.",
            hint=f"One of: {', '.join(sorted(conf.RUNTIMES)) or 'none, since RUNTIMES is empty'}.",
            id="ohsessions.E005",
        )
    for alias, entry in conf.RUNTIMES.items():
        where, hint = f"The BACKEND of the runtime {alias!r}", "Subclass ohsessions.Runtime."
        wrong = class_mistakes(where, entry["BACKEND"], Runtime, hint, id="ohsessions.E006")
        yield from wrong or option_mistakes(alias, entry)


def option_mistakes(alias: str, entry: RuntimeEntry) -> Iterator[CheckMessage]:
    backend = import_string(entry["BACKEND"])
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
        where, hint = f"OHSESSIONS[{name!r}]", f"Subclass {known_as}."
        yield from class_mistakes(where, getattr(conf, name), base, hint, id="ohsessions.E008")
    if urlsplit(conf.GITHUB_API_URL).scheme not in ("http", "https"):
        yield out_of_range("GITHUB_API_URL", f"is {conf.GITHUB_API_URL!r}.", 'Like "https://api.github.com".')
    uses_logins = f"{AllowedLogins.__module__}.{AllowedLogins.__name__}" == conf.GITHUB_TOKEN_CHECK
    if uses_logins and not conf.GITHUB_LOGINS:
        yield out_of_range("GITHUB_LOGINS", "is empty.", "Name the people of GitHub whom to let in.")


@check()
def check_channel_layer() -> Iterator[CheckMessage]:
    if not getattr(settings, "CHANNEL_LAYERS", {}).get("default"):
        yield Error(
            "There is no default channel layer: processes could not wake each other.",
            hint=f'CHANNEL_LAYERS = {{"default": {{"BACKEND": "{MEMORY_LAYER}"}}}} for a single process,'
            " channels_redis.pubsub.RedisPubSubChannelLayer for more.",
            id="ohsessions.E007",
        )


@register(TAG, Tags.database)
def check_sqlite(
    app_configs: object = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    return [
        Warning(
            f"The SQLite database {alias!r} would fail with 'database is locked' under load.",
            hint='OPTIONS = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command":'
            ' "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"}',
            id="ohsessions.W002",
        )
        for alias in databases or []
        if connections[alias].vendor == "sqlite" and not bears_load(connections[alias].settings_dict)
    ]


def bears_load(database: Mapping[str, Any]) -> bool:
    """Return whether an SQLite database of DATABASES has transactions that wait for each other, and a WAL."""
    options = database.get("OPTIONS", {})
    immediate = str(options.get("transaction_mode", "")).upper() == "IMMEDIATE"
    return immediate and "journal_mode=wal" in options.get("init_command", "").lower().replace(" ", "")


@check(deploy=True)
def check_shell() -> Iterator[CheckMessage]:
    for alias, entry in conf.RUNTIMES.items():
        if not settings.DEBUG and not is_isolated(entry):
            yield Warning(
                f"Users who start a session with the runtime {alias!r} can reach the worker's host, or its"
                " network.",
                hint="Install bubblewrap, with the options `sandbox` and `network` at their defaults; or take"
                " the runtime out of RUNTIMES; or isolate the workers and silence this check.",
                id="ohsessions.W001",
            )


def is_isolated(entry: RuntimeEntry) -> bool:
    """Return whether an entry of RUNTIMES isolates its users from the host, as a shell in a sandbox does."""
    try:
        backend = import_string(entry["BACKEND"])
        return bool(backend.is_isolated(entry.get("OPTIONS", {})))
    except (ImportError, AttributeError):
        return True


@check(deploy=True)
def check_memory_layer() -> Iterator[CheckMessage]:
    if getattr(settings, "CHANNEL_LAYERS", {}).get("default", {}).get("BACKEND") == MEMORY_LAYER:
        yield Warning(
            "The channel layer is in memory: a second process would learn of everything late.",
            hint="Use Redis (REDIS_URL), or silence this check if one process is all there is.",
            id="ohsessions.W003",
        )
