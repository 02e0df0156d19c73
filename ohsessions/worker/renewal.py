"""The secrets of one activation, kept up to date: INITs may bring newer ones while it runs.

Wake-ups and reconciliation bring the newest version's number. Reading an action returns that number too, so
no action is handled that may contain a secret unknown to the activation.
"""

from __future__ import annotations

import asyncio

from ohsessions import vault
from ohsessions.core.runtime import Runtime
from ohsessions.processes.store import Store
from ohsessions.worker.calls import contained
from ohsessions.worker.context import HostContext


class Renewal:
    """Reads a session's secrets again when there are newer ones, and notifies its runtime."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noticed = 0
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()

    def notice(self, version: int) -> None:
        """Note that the session's secrets have this version, so that run() reads newer ones."""
        if version > self._noticed:
            self._noticed = version
            self._news.set()

    async def run(self, runtime: Runtime, context: HostContext) -> None:
        """Renew the secrets whenever newer ones are noticed, for as long as the activation lasts."""
        while True:
            await self._news.wait()
            self._news.clear()
            await self.renew(runtime, context, self._noticed)

    async def renew(self, runtime: Runtime, context: HostContext, version: int) -> None:
        """Wait until the activation and its runtime know the secrets of this version, or newer ones.

        Raise the runtime's error, which is a crash.
        """
        async with self._reading:
            if version <= context.secrets_version:
                return
            names = context.renew(await self._store.read_patiently(vault.read, context.session_id))
        if names:
            await contained(runtime.secrets_changed(names))
