"""
Deployment checks: settings that work, but open a site to strangers.

`manage.py check --deploy` shows the warnings. Each explains the risk, and what to write instead. Settings
that do not work are checked in `ohsessions.checks`.

W004 anybody may start sessions        W007 tokens are accepted in the query
W005 pages of any origin may connect   W008 limits that were removed
W006 any host name is accepted         W009 a key for secrets that can be guessed
W010 a proxy without TRUSTED_PROXIES   W011 networks of proxies that are too wide
W012 GitHub tokens sent in clear
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from ohsessions.checks import check
from ohsessions.conf import Settings, conf
from ohsessions.core.addresses import parse_networks

LEAST_PREFIX_4, LEAST_PREFIX_6 = 8, 7
"""The shortest prefixes of proxies' networks, in bits: 10.0.0.0/8 and fc00::/7 are private."""
LEAST_KEY_LENGTH = 32
"""Characters of a key: 128 bits in hexadecimal."""
LEAST_KEY_VARIETY = 8
"""Different characters of a key. A random key has twice as many."""
PLACEHOLDERS = ("django-insecure-", "insecure:", "changeme", "change-me", "secret")
"""The beginnings of keys that were copied from an example."""


@check(deploy=True)
def check_strangers() -> Iterator[CheckMessage]:
    """Warn of settings that let strangers in: logins, origins, host names, tokens in addresses, limits."""
    if conf.ALLOW_ANONYMOUS and not settings.DEBUG:
        yield Warning(
            "Anybody who reaches this site may start sessions: ALLOW_ANONYMOUS is on without DEBUG.",
            hint="Leave OHSESSIONS['ALLOW_ANONYMOUS'] out and have people log in. If strangers are wanted,"
            " keep to runtimes that run no commands, and silence this check.",
            id="ohsessions.W004",
        )
    if "*" in (conf.ALLOWED_ORIGINS or []):
        yield Warning(
            "Any web page may connect as the person who looks at it: ALLOWED_ORIGINS has '*'.",
            hint='List the pages that may: OHSESSIONS["ALLOWED_ORIGINS"] = ["https://example.org"].',
            id="ohsessions.W005",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Warning(
            "Any host name counts as this site's: ALLOWED_HOSTS has '*'. A web page whose name is made to"
            " mean this server may connect.",
            hint='List the names of the site: ALLOWED_HOSTS = ["sessions.example.org"].',
            id="ohsessions.W006",
        )
    if conf.ALLOW_TOKEN_IN_QUERY:
        yield Warning(
            "Tokens are taken from the query string, which proxies, servers and browsers keep in logs.",
            hint="Have clients send the token in CONNECT's auth or as Authorization: Bearer, and leave"
            " OHSESSIONS['ALLOW_TOKEN_IN_QUERY'] out.",
            id="ohsessions.W007",
        )
    if unlimited := [*_unlimited()]:
        yield Warning(
            f"Limits are None, so one client may ask for any amount: {', '.join(unlimited)}.",
            hint="Leave what is None out of OHSESSIONS for its default, or write another number.",
            id="ohsessions.W008",
        )


def _unlimited() -> Iterator[str]:
    """Yield the names of limits that have a default and are None."""
    for name, default in vars(Settings).items():
        is_limit = name.startswith("MAX_") or "RATE" in name.split("_")
        if is_limit and default is not None and getattr(conf, name) is None:
            yield name


@check(deploy=True)
def check_proxies() -> Iterator[CheckMessage]:
    """Warn of headers that a proxy sets and a visitor can set as well."""
    names = ("SECURE_PROXY_SSL_HEADER", "USE_X_FORWARDED_HOST")
    believed = [name for name in names if getattr(settings, name)]
    if believed and not conf.TRUSTED_PROXIES:
        yield Warning(
            f"There is a proxy ({', '.join(believed)}), and TRUSTED_PROXIES names none: all visitors count as"
            " one address.",
            hint='Name its network: OHSESSIONS["TRUSTED_PROXIES"] = ["127.0.0.1"]. See that nobody reaches'
            " the gateways but through it.",
            id="ohsessions.W010",
        )
    for name in conf.TRUSTED_PROXIES:
        if _is_wide(name):
            yield Warning(
                f"TRUSTED_PROXIES has {name}, where visitors are, too: they can claim any address.",
                hint="Write the addresses of the proxies alone, or the network that only they are in.",
                id="ohsessions.W011",
            )


def _is_wide(name: str) -> bool:
    """Return whether a network is too wide for proxies. `ohsessions.checks` reports an invalid one."""
    try:
        networks = parse_networks((name,))
    except ValueError:
        return False
    least = {4: LEAST_PREFIX_4, 6: LEAST_PREFIX_6}
    return any(network.prefixlen < least[network.version] for network in networks)


def is_local(host: str) -> bool:
    """Return whether a name or address is this host's own, which no other host can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy_headers_risk(bind: str) -> str | None:
    """Return the risk of `serve --proxy-headers` on this address; None if no other host can reach it."""
    if is_local(bind.strip("[]")):
        return None
    return (
        f"With --proxy-headers, every client that reaches {bind} can claim any address. Leave the option"
        " out and name the proxies in OHSESSIONS['TRUSTED_PROXIES'], or bind to 127.0.0.1."
    )


@check(deploy=True)
def check_github() -> Iterator[CheckMessage]:
    """Warn if the GitHub tokens of users are sent in clear. `ohsessions.checks` checks GITHUB_LOGINS."""
    address = urlsplit(conf.GITHUB_API_URL)
    is_private = address.scheme == "https" or is_local(address.hostname or "")
    if conf.GITHUB_TOKEN_CHECK is not None and not is_private:
        yield Warning(
            f"GitHub tokens of users are sent in clear: GITHUB_API_URL is {conf.GITHUB_API_URL!r}.",
            hint='OHSESSIONS["GITHUB_API_URL"] = "https://…".',
            id="ohsessions.W012",
        )


@check(deploy=True)
def check_keys() -> Iterator[CheckMessage]:
    """Warn of weak keys for stored secrets. Without any, SECRET_KEY is used, which Django checks."""
    for number, key in enumerate(conf.SECRETS_KEYS, 1):
        if is_weak_key(key):
            yield Warning(
                f"Key {number} of SECRETS_KEYS can be guessed: a copy of the database is enough to"
                " read its secrets.",
                hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'. Put it"
                " first, and keep the old one behind it until nothing is encrypted with it any more.",
                id="ohsessions.W009",
            )


def is_weak_key(key: str) -> bool:
    """Return whether a key is short, has few characters, repeats itself, or begins like an example."""
    plain = key.lower()
    return (
        len(key) < LEAST_KEY_LENGTH
        or len(set(key)) < LEAST_KEY_VARIETY
        or plain.startswith(PLACEHOLDERS)
        or any(plain == plain[:length] * (len(plain) // length) for length in range(1, len(plain) // 2 + 1))
    )
