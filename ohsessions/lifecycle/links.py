"""The links to a session: make, use, list and revoke them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from ohsessions import access
from ohsessions.access import Grant, Role
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.database import as_stored, database_now
from ohsessions.lifecycle.locked import Change, Locked, lock
from ohsessions.models import Link, LinkQuerySet

MOST_LINKS = 100
"""The most live links of one session."""
MOST_ENDED = 100
"""The most ended links of one session that are kept. They are history: a token without a row is refused."""
USED_EVERY = timedelta(minutes=1)
"""The precision of `last_used_at`: many clients that use one link at once cause one write."""


def live_links(session_id: UUID) -> LinkQuerySet:
    """Return the live links to a session, newest first."""
    return Link.objects.live(database_now()).filter(session=session_id).order_by("-created_at")


@transaction.atomic
def share(grant: Grant, role: Role, user: Any, *, label: str = "", seconds: float | None = None) -> Link:
    """Make a link that ends after `seconds` (TOKEN_MAX_AGE at most), and no later than the grant.

    Raises WireError 429 `quota` if there are MOST_LINKS already, or 401 `invalid_token` if the grant was
    revoked meanwhile.
    """
    locked = lock(grant.session.pk)
    links, now = Link.objects.filter(session=locked.session), locked.now
    live = set(links.live(now).values_list("pk", flat=True))
    is_revoked = grant.link is not None and grant.link.pk not in live
    if is_revoked or grant.session.token_version != locked.session.token_version:
        raise access.invalid_token()
    if len(live) >= MOST_LINKS:
        message = f"There are {MOST_LINKS} links to this session. Revoke some that nobody needs."
        raise WireError(429, "quota", message)
    ended = links.exclude(pk__in=live).order_by("-created_at").values_list("pk", flat=True)
    links.filter(pk__in=list(ended[MOST_ENDED : MOST_ENDED + MOST_LINKS])).delete()
    longest = float(conf.TOKEN_MAX_AGE)
    ends_at = now + timedelta(seconds=min(longest if seconds is None else seconds, longest))
    return Link.objects.create(
        session=locked.session,
        role=role,
        label=label,
        created_by=user if user.is_authenticated else None,
        parent=grant.link,
        created_at=now,
        expires_at=min(ends_at, as_stored(grant.expires_at)) if grant.expires_at else ends_at,
    )


def use_link(link: Link, locked: Locked) -> bool:
    """Record the use of a link; return False if the link has ended. Its session is locked, so nobody revokes
    the link meanwhile."""
    rows = Link.objects.live(locked.now).filter(pk=link.pk)
    used = list(rows.values_list("last_used_at", flat=True))
    if not used:
        return False
    if used[0] is None or locked.now - used[0] >= USED_EVERY:
        rows.update(last_used_at=locked.now)
    return True


@transaction.atomic
def revoke_link(session_id: UUID, link_id: UUID) -> Change:
    """Revoke a link and the links made with it, and end the connections that use them.

    Raises WireError 404 `unknown_link` if the session has no such link, or the link has ended.
    """
    locked = lock(session_id)
    links = Link.objects.live(locked.now).filter(session=session_id)
    ended = _with_children(links, link_id)
    if not ended:
        raise WireError(404, "unknown_link", "This session has no such link (any more).")
    links.filter(pk__in=ended).update(revoked_at=locked.now)
    locked.end_connections("revoked", link__in=ended)
    locked.set_due(locked.attached())
    return locked.save()


def _with_children(links: LinkQuerySet, link_id: UUID) -> list[UUID]:
    """Return a link and all links made with it, directly or not: MOST_LINKS at most."""
    parents = dict(links.values_list("pk", "parent"))
    found = [link_id] if link_id in parents else []
    for one in found:  # the list grows during the loop
        found += [child for child, parent in parents.items() if parent == one]
    return found


@transaction.atomic
def revoke_all(session_id: UUID) -> tuple[Change, int]:
    """Raise the session's token version, so that all its links and tokens end, and end all its connections.

    Return also the number of connections that were ended.
    """
    locked = lock(session_id)
    session = locked.session
    session.token_version += 1
    Link.objects.live(locked.now).filter(session=session_id).update(revoked_at=locked.now)
    count = locked.attached()
    locked.end_connections("revoked")
    locked.set_due(0)
    return locked.save(), count
