"""The site's security headers, beyond those of Django's SecurityMiddleware."""

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

Handler = Callable[[HttpRequest], HttpResponseBase]
AsyncHandler = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


def policy(request: HttpRequest) -> str:
    """
    Return the Content-Security-Policy: pages load and connect to this host only. Some browsers do not count a
    websocket of the same host as 'self', so the policy names it.
    """
    try:
        socket = f" {'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    except DisallowedHost:
        socket = ""
    return (
        "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        f" connect-src 'self'{socket};"
        " frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
    )


def add_policy(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response.headers.setdefault("Content-Security-Policy", policy(request))
    return response


@sync_and_async_middleware
def content_security_policy(get_response: Handler | AsyncHandler) -> Handler | AsyncHandler:
    """Add the policy to each response that has none of its own."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: HttpRequest) -> HttpResponseBase:
            return add_policy(request, await cast(AsyncHandler, get_response)(request))

        return amiddleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return add_policy(request, cast(Handler, get_response)(request))

    return middleware
