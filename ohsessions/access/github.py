"""The check of the GitHub token of an INIT: does its user have access to this site? (GITHUB_TOKEN_CHECK)

The setting names the class that decides: none by default, AllowedLogins, or a class of the site. No token is
logged, kept in clear, or sent anywhere but to GITHUB_API_URL.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from typing import Any

from django.utils.module_loading import import_string

from ohsessions.concurrency.outages import Outage
from ohsessions.conf import conf
from ohsessions.core.errors import WireError

logger = logging.getLogger(__name__)

ASK_LIMIT = 5.0
"""Seconds that GitHub may take to connect, to send the next bytes, and to send the whole answer."""
MAX_ANSWER = 64 * 1024
MAX_TOKEN = 255
KNOWN_FOR, UNKNOWN_FOR = 300.0, 60.0
"""Seconds for which a token's login is remembered, and for which a token that GitHub does not know is."""
MOST_REMEMBERED = 10_000


class TokenCheck:
    """The check of GitHub tokens. Each INIT gets a new instance, called in a thread, so it may block."""

    def check(self, user: Any, token: str | None) -> None:
        """Raise WireError to refuse an INIT of this user with this token (None: without a token).

        See refused() and unreachable() for the two errors of the protocol.
        """
        raise NotImplementedError


class AllowedLogins(TokenCheck):
    """A check that asks GitHub for the token's login, and accepts the logins in GITHUB_LOGINS."""

    def check(self, user: Any, token: str | None) -> None:
        """See TokenCheck."""
        login = _login_of(token) if token else None
        if login is None or login.lower() not in {name.lower() for name in conf.GITHUB_LOGINS}:
            raise refused()


def check_github_token(user: Any, token: str | None) -> None:
    """Call the site's class, if there is one; see TokenCheck.check()."""
    if conf.GITHUB_TOKEN_CHECK is not None:
        made: TokenCheck = import_string(conf.GITHUB_TOKEN_CHECK)()
        made.check(user, token)


def refused() -> WireError:
    """Return the error for a token that is missing, not valid, or of somebody else."""
    return WireError(403, "github_user", "Connect a GitHub account that this site lets in.")


def unreachable() -> WireError:
    """Return the error for a token that cannot be checked, because GitHub does not answer."""
    return WireError(503, "unavailable", "GitHub cannot be asked at the moment. Try again.", retry_after=5.0)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirects: they would send the token on, perhaps to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


_outage = Outage(logger, "GitHub", "github")
_opener = urllib.request.build_opener(_NoRedirects)
_key = secrets.token_bytes(32)
_lock = threading.Lock()
_known: OrderedDict[bytes, tuple[str | None, float]] = OrderedDict()
"""The logins of tokens, and until when they are remembered, by a digest with a key of this process. If it is
full, the oldest one is deleted."""


def _login_of(token: str) -> str | None:
    """Return the token's login, or None if it has none. Raises WireError 503 if GitHub does not answer."""
    if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        return None
    digest = hashlib.blake2b(f"{conf.GITHUB_API_URL}\0{token}".encode(), key=_key, digest_size=16).digest()
    with _lock:
        login, until = _known.get(digest, (None, 0.0))
    if time.monotonic() < until:
        return login
    login = _ask(token)
    until = time.monotonic() + (UNKNOWN_FOR if login is None else KNOWN_FOR)
    with _lock:
        _known[digest] = (login, until)
        _known.move_to_end(digest)
        if len(_known) > MOST_REMEMBERED:
            _known.popitem(last=False)
    return login


def _ask(token: str) -> str | None:
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "User-Agent": "ohsessions",
    }
    request = urllib.request.Request(f"{conf.GITHUB_API_URL.rstrip('/')}/user", headers=headers)
    try:
        with _opener.open(request, timeout=ASK_LIMIT) as answer:
            login = json.loads(_read(answer))["login"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            return None
        _outage.failed(f"status {error.code}")
        raise unreachable() from None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        _outage.failed(type(error).__name__)
        raise unreachable() from None
    _outage.worked()
    return login if isinstance(login, str) else None


def _read(answer: Any) -> bytes:
    """Return the body. Raises TimeoutError if it arrives too slowly, ValueError if it is too large."""
    body, deadline = b"", time.monotonic() + ASK_LIMIT
    while chunk := answer.read1(16 * 1024):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ValueError("too large")
        if time.monotonic() > deadline:
            raise TimeoutError
    return body
