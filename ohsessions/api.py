"""Operations on sessions for Django code: views, commands, tasks and the admin.

Call them from a thread that may use the ORM. Each one runs a transaction of `lifecycle`, and notifies the
processes concerned after the commit: inside `transaction.atomic()`, after the commit of the outermost block.
All raise WireError 404 if there is no such session.
"""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import transaction

from ohsessions import lifecycle
from ohsessions.lifecycle import Change
from ohsessions.wakeups import Wakeups

__all__ = ["close", "passivate", "rename", "revoke_link", "revoke_links", "wake"]


def rename(session_id: UUID, title: str) -> str:
    """Store a session's title, and return it as stored: cleaned, cut, without the session's secrets."""
    change = lifecycle.rename(session_id, title)
    _notify(change)
    return change.title


def close(session_id: UUID, *, by: str, reason: str = "closed") -> None:
    """Close a session for good; it stays readable. Closing a closed session changes nothing."""
    _notify(lifecycle.close(session_id, by=by, reason=reason))


def passivate(session_id: UUID, *, by: str) -> str:
    """Passivate a session despite its connections and actions; return a message about the effect."""
    change, outcome = lifecycle.force_passivation(session_id, by=by)
    _notify(change)
    return outcome


def wake(session_id: UUID, *, by: str) -> str:
    """Start a session that sleeps or has failed; return a message about the effect."""
    change, outcome = lifecycle.wake(session_id, by=by)
    _notify(change)
    return outcome


def revoke_link(session_id: UUID, link_id: UUID) -> None:
    """Revoke a link and the links made with it, and end the connections that use them.

    Raises WireError 404 `unknown_link` if the session has no such link, or the link has ended.
    """
    _notify(lifecycle.revoke_link(session_id, link_id))


def revoke_links(session_id: UUID) -> int:
    """Revoke all links and tokens of a session, and end all its connections; return the number of these."""
    change, count = lifecycle.revoke_all(session_id)
    _notify(change)
    return count


def _notify(change: Change) -> None:
    transaction.on_commit(lambda: async_to_sync(Wakeups().change)(change), robust=True)
