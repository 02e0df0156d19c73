"""The checks of each request to Socket.IO: Host, then HTTPS, then Origin, on every transport and preflight.

The module owns the refusals that need no session, no user and no body. Django's middleware sees none of these
requests. So Django's rules are applied here: HttpRequest.get_host(), is_secure(), and SECURE_SSL_REDIRECT.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.http.request import split_domain_port

from ohsessions.conf import conf
from ohsessions.socketio import RequestRefused

logger = logging.getLogger(__name__)

DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[a-f0-9:.]+\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)

Scope = Mapping[str, Any]


def admit(scope: Scope) -> None:
    """
    Raise RequestRefused unless the request of `scope` may reach Socket.IO.

    A page of any host name can make a browser send requests to this address ("DNS rebinding"). Then Origin
    and Host agree, and only the list of our own host names detects it. So Host is checked first.
    """
    request = as_request(scope)
    try:
        if "HTTP_HOST" not in request.META:
            raise DisallowedHost("The request has no Host header.")
        host = request.get_host()
    except DisallowedHost as error:
        _refuse(
            scope,
            400,
            "Host",
            "This host name is not one of this site's: use a name from its ALLOWED_HOSTS.",
            error,
        )
    if needs_https(request):
        message = "This site is served over HTTPS only: connect to https:// or wss://."
        hint = "If a proxy in front of this site ends TLS, set SECURE_PROXY_SSL_HEADER."
        _refuse(scope, 403, "scheme", message, hint)
    origin = request.META.get("HTTP_ORIGIN")
    if origin and not is_allowed_origin(origin, host):
        hint = "If its pages may connect, add the origin to ALLOWED_ORIGINS."
        if is_own_origin(origin, host):
            hint = (
                "ALLOWED_ORIGINS lacks this site's own origin: add it, or this site's pages cannot connect."
            )
        message = "Pages of this origin may not connect: the site's ALLOWED_ORIGINS does not list it."
        _refuse(scope, 403, "Origin", message, hint)


def cookie_attributes(scope: Scope) -> str:
    """
    Return the attributes of the cookie that a polling handshake sets.

    A page of another site gets the cookie only with SameSite=None, which browsers accept only over HTTPS.
    """
    request = as_request(scope)
    host, origin = request.get_host(), parse_origin(request.META.get("HTTP_ORIGIN", ""))
    is_foreign = origin is not None and origin.host != split_domain_port(host)[0]
    path = f"{scope.get('root_path', '')}/{conf.PATH.strip('/')}"
    if not request.is_secure():
        return f"; Path={path}; SameSite=Lax"
    return f"; Path={path}; Secure; SameSite={'None' if is_foreign else 'Lax'}"


def as_request(scope: Scope) -> HttpRequest:
    """Return a scope as a Django request, as far as Django's rules on hosts and schemes need it."""
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    # Of a type's parameters Django makes a codec, or an error.
    headers = [pair for pair in scope.get("headers", []) if pair[0] != b"content-type"]
    known = {"method": "GET", "path": scope["path"], "scheme": scheme, "headers": headers}
    return ASGIRequest(known, BytesIO())


def needs_https(request: HttpRequest) -> bool:
    """Return whether Django's SecurityMiddleware would redirect this request to HTTPS."""
    if not django_settings.SECURE_SSL_REDIRECT or request.is_secure():
        return False
    path = request.path.lstrip("/")
    return not any(re.search(pattern, path) for pattern in django_settings.SECURE_REDIRECT_EXEMPT)


class Origin(NamedTuple):
    """An origin in a normalized form, for comparison. `port` is empty for the scheme's default port."""

    scheme: str
    host: str
    port: str


def parse_origin(text: str) -> Origin | None:
    """Return the normalized form of an Origin header; None for `null` and any text that is no origin."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    return Origin(scheme, host.removesuffix("."), "" if port in (None, DEFAULT_PORTS.get(scheme)) else port)


def is_allowed_origin(text: str, host: str) -> bool:
    """
    Return whether a page of the origin `text` may connect to `host`, which is one of ours.

    Browsers send Origin; other programs may omit it. Without ALLOWED_ORIGINS a page needs our host and port.
    Its scheme does not count, since a proxy may end TLS in front of us.
    """
    allowed, origin = conf.ALLOWED_ORIGINS, parse_origin(text)
    if allowed is None:
        return is_own_origin(text, host)
    if "*" in allowed:
        return origin is not None or text == "null"
    return origin is not None and origin in map(parse_origin, allowed)


def is_own_origin(text: str, host: str) -> bool:
    """Return whether the origin `text` has this host and port."""
    origin = parse_origin(text)
    if origin is None:
        return False
    domain, port = split_domain_port(host)
    return (origin.host, origin.port) == (domain, "" if port == DEFAULT_PORTS.get(origin.scheme) else port)


def _refuse(scope: Scope, status: int, what: str, message: str, hint: object) -> None:
    client = (scope.get("client") or ["?"])[0]
    logger.warning(
        "A Socket.IO request of %s was refused for its %s. %.300s",
        client,
        what,
        hint,
        extra={"verb": "refused"},
    )
    raise RequestRefused(3 if status == 400 else 4, message, status=status)
