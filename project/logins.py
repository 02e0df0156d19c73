"""
A limit on password guessing at the login page: WINDOW seconds allow TRIES per account and address, and
ADDRESS_TRIES per address; more are answered with 429. Accounts are never locked for other addresses: a
stranger must not keep their owner out.

The counts are in Django's cache. If that is in memory, as by default, each process counts for itself.
"""

import hashlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render, resolve_url
from django.urls import NoReverseMatch
from django.utils.decorators import sync_and_async_middleware

from ohsessions.core.addresses import limit_key
from ohsessions.gateway.client_address import address_of

Handler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

WINDOW = 300
"""Seconds after the first counted try until all tries are forgotten."""
TRIES = 5
"""Tries at one account from one address."""
ADDRESS_TRIES = 30
"""Tries from one address at any accounts."""


class TooMany(Exception):
    """A try too many. `seconds`: the time until the next try is allowed."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Tries:
    """The tries of one kind, counted under a digest, so that the cache has no names and addresses."""

    def __init__(self, kind: str, most: int) -> None:
        digest = hashlib.sha256(kind.encode()).hexdigest()[:32]
        self._count, self._until = f"login-tries-{digest}", f"login-until-{digest}"
        self._most = most

    def take(self) -> None:
        """Count a try. Raises TooMany. Call it before the password is checked: then the limit also holds for
        many tries at once."""
        now = time.time()
        cache.add(self._until, now + WINDOW, WINDOW)
        cache.add(self._count, 0, WINDOW)
        try:
            count = cache.incr(self._count)
        except ValueError:  # the count expired just now
            return
        if count > self._most:
            raise TooMany(max(1, math.ceil(cache.get(self._until, now) - now)))

    def give_back(self) -> None:
        """Subtract a try that was not a wrong password."""
        try:
            cache.decr(self._count)
        except ValueError:
            pass

    def forget(self) -> None:
        """Delete the count, after the right password."""
        cache.delete_many([self._count, self._until])


def tries_of(request: HttpRequest) -> tuple[Tries, Tries] | None:
    """Return the counts of a login, by address and by account; None for any other request."""
    if request.method != "POST" or request.path != login_path():
        return None
    address = limit_key(address_of(scope_of(request)))
    name = request.POST.get("username", "").strip().casefold()
    return Tries(address, ADDRESS_TRIES), Tries(f"{address}\0{name}", TRIES)


def login_path() -> str | None:
    """Return the path of the login page; None in a site without one."""
    try:
        return resolve_url(settings.LOGIN_URL)
    except NoReverseMatch:
        return None


def scope_of(request: HttpRequest) -> dict[str, Any]:
    """Return the ASGI scope of a request, or if it has none a scope with its address and headers."""
    scope: dict[str, Any] | None = getattr(request, "scope", None)
    if scope is not None:
        return scope
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    return {"client": [request.META.get("REMOTE_ADDR", "")], "headers": headers}


def take(request: HttpRequest, tries: tuple[Tries, Tries]) -> HttpResponseBase | None:
    """Count a login. Return the response 429 if it is one too many, else None."""
    try:
        for one in tries:
            one.take()
    except TooMany as error:
        response = render(request, "429.html", {"seconds": error.seconds}, status=429)
        response["Retry-After"] = str(error.seconds)
        response["Cache-Control"] = "no-store"
        return response
    return None


def settle(tries: tuple[Tries, Tries], status: int) -> None:
    """Subtract a try that was not wrong. After a wrong one Django shows the form again, with status 200."""
    by_address, by_account = tries
    if status != 200:
        by_address.give_back()
    if status == 302:
        by_account.forget()
    elif status != 200:
        by_account.give_back()


@sync_and_async_middleware
def slow_password_guessing(get_response: Handler | AsyncHandler) -> Handler | AsyncHandler:
    """Answer a try too many with 429 and Retry-After, before the password is checked."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            tries = tries_of(request)
            if tries is None:
                return await cast(AsyncHandler, get_response)(request)
            refused = take(request, tries)
            if refused is not None:
                return refused
            response = await cast(AsyncHandler, get_response)(request)
            settle(tries, response.status_code)
            return response

        return amiddleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        tries = tries_of(request)
        if tries is None:
            return cast(Handler, get_response)(request)
        refused = take(request, tries)
        if refused is not None:
            return refused
        response = cast(Handler, get_response)(request)
        settle(tries, response.status_code)
        return response

    return middleware
