"""The protections that can be taken away, each by a patch of the one place that has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ohsessions.core import policy
from ohsessions.gateway.gateway import Gateway
from ohsessions.journal import Append
from ohsessions.journal.batch import Batch
from ohsessions.worker.worker import SessionWorker


def _without_epoch() -> None:
    """Writes of a session's former owner are accepted."""
    policy.is_stale = lambda session, epoch: session is None  # type: ignore[assignment]


def _without_reconcile() -> None:
    """Messages that the channel layer lost are never looked for in the database."""

    async def nothing(self: Any) -> None:
        pass

    Gateway._reconcile = nothing  # type: ignore[method-assign]
    SessionWorker._reconcile = nothing  # type: ignore[method-assign]


def _without_marks() -> None:
    """It is not stored which actions were started and handled."""
    mark = Batch._mark

    def forgetful(self: Batch, session: Any, append: Append) -> None:
        mark(self, session, replace(append, started=None, handled=None))

    Batch._mark = forgetful  # type: ignore[method-assign]


PROTECTIONS: dict[str, Callable[[], None]] = {
    "epoch": _without_epoch,
    "reconcile": _without_reconcile,
    "marks": _without_marks,
}


def take_away(name: str) -> None:
    """Take one protection away from this process, for good. Raises KeyError for an unknown name."""
    PROTECTIONS[name]()
