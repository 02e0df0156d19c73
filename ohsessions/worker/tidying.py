"""The side jobs of workers: delete rows past their retention, and files that belong to nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from uuid import UUID

from ohsessions import pruning, snapshots, workspaces
from ohsessions.core.errors import Unavailable
from ohsessions.processes.store import Store
from ohsessions.pruning import Pass

logger = logging.getLogger(__name__)

SWEEP_EVERY = 3600.0
PRUNE_EVERY = 60.0
SLICE_SECONDS = 5.0
"""Seconds that each kind of rows gets at a time; the rest of it is left for the next time."""
PAUSE = 0.01
"""Seconds between two steps, so that other work that waits for the database comes first."""


class Tidying:
    """The tidying of one worker."""

    def __init__(self, store: Store, own_id: Callable[[], UUID]) -> None:
        self._store = store
        self._own_id = own_id
        self._unfinished: dict[type[Pass], Pass] = {}
        self._swept_logs: float | None = None

    async def sweep(self) -> None:
        """Delete workspaces of sessions that no longer exist, and snapshot files that no row names.

        Each worker sweeps: it may be the only one on its host.
        """
        await workspaces.asweep(self._store.database)
        await snapshots.asweep(self._store.database)

    async def prune(self) -> None:
        """Delete old rows, if this is the worker that prunes for all. Each kind of rows gets one slice."""
        if not await self._store.database.read(pruning.is_first_worker, self._own_id()):
            return
        for kind in pruning.PASSES:
            if kind.age() is None:
                self._drop(kind)
                continue
            try:
                await self._go_on(kind, self._drop(kind) or self._begin(kind))
            except Unavailable:
                raise
            except Exception:
                extra = {"verb": "prune_failed"}
                logger.exception("Pruning %s failed. Other rows are still pruned.", kind.what, extra=extra)

    def _drop(self, kind: type[Pass]) -> Pass | None:
        return self._unfinished.pop(kind) if kind in self._unfinished else None

    def _begin(self, kind: type[Pass]) -> Pass:
        if kind is not pruning.LargeLogs:
            return kind()
        # Logs grow while their sessions are awake. A query for all logs reads the whole table, so it is rare.
        now = time.monotonic()
        all_due = self._swept_logs is None or now - self._swept_logs >= SWEEP_EVERY
        self._swept_logs = now if all_due else self._swept_logs
        return pruning.LargeLogs(awake=not all_due)

    async def _go_on(self, kind: type[Pass], one: Pass) -> None:
        end, before = time.monotonic() + SLICE_SECONDS, one.found
        more = True
        while more and time.monotonic() < end:
            # None: the row was locked, and the pass has gone on to the next one.
            more = await self._store.try_change(one.step) is not False
            await asyncio.sleep(PAUSE)
        if more:
            self._unfinished[kind] = one
        if one.found > before:
            found = one.found - before
            logger.info("The worker pruned %s: %d", one.what, found, extra={"verb": "pruned"})
