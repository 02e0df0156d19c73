"""The secrets of one activation, kept up to date: INITs may bring newer ones while it runs.

Hints and reconciliation tell which version there is. An action says so too, so none is handled that may have
a secret in it which the activation does not know.
"""

from __future__ import annotations

import asyncio

from ohsessions import vault
from ohsessions.core.runtime import Runtime
from ohsessions.services import Services
from ohsessions.worker.context import HostContext
from ohsessions.worker.guard import guarded


class Renewal:
    """Reads a session's secrets again when there are newer ones, and tells its runtime."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._noticed = 0
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()

    def notice(self, version: int) -> None:
        """The session's secrets have this version."""
        if version > self._noticed:
            self._noticed = version
            self._news.set()

    async def run(self, runtime: Runtime, context: HostContext) -> None:
        """Renew whenever newer ones are noticed, for as long as the activation lasts."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.renew(runtime, context, self._noticed)

    async def renew(self, runtime: Runtime, context: HostContext, version: int) -> None:
        """Return once the activation knows the secrets of this version, or newer ones, and its runtime too.

        Raises what the runtime does, which is a crash.
        """
        async with self._reading:
            if version <= context.secrets_version:
                return
            names = context.renew(await self._services.read_patiently(vault.read, context.session_id))
        if names:
            await guarded(runtime.secrets_changed(names))
