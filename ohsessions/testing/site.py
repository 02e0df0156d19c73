"""The site of a test: it runs in the test's event loop, and its users are logged in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from ohsessions.routing import Mount

_stopped: WeakSet[Any] = WeakSet()


@asynccontextmanager
async def running(application: Mount) -> AsyncIterator[Mount]:
    """Start the application that `ohsessions.routing.mount` returned, and stop it at the end.

    With a channel layer in memory its worker runs, too. An application runs once: raises RuntimeError if it
    has run before. Each test mounts its own.
    """
    if application in _stopped:
        raise RuntimeError("This application has been stopped: call mount() again, in each test.")
    try:
        await application.started()
        yield application
    finally:
        _stopped.add(application)
        await application.stop()


async def login_cookie(user: Any) -> str:
    """Return the Cookie header of a browser in which this user has logged in."""
    from django.conf import settings
    from django.test import AsyncClient

    browser = AsyncClient()
    await browser.aforce_login(user)
    return f"{settings.SESSION_COOKIE_NAME}={browser.cookies[settings.SESSION_COOKIE_NAME].value}"
