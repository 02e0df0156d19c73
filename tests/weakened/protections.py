"""The protections that can be removed, each by a patch of the one place that implements it."""

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
    """Accept writes of a session's former owner."""
    policy.is_stale = lambda session, epoch: session is None  # type: ignore[assignment]


def _without_reconcile() -> None:
    """Never read the messages that the channel layer lost from the database."""

    async def nothing(self: Any) -> None:
        pass

    Gateway._reconcile = nothing  # type: ignore[method-assign]
    SessionWorker._reconcile = nothing  # type: ignore[method-assign]


def _without_marks() -> None:
    """Do not store which actions were started and handled."""
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
    """Remove one protection from this process, for good. Raises KeyError for an unknown name."""
    PROTECTIONS[name]()
