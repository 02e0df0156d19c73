"""«Passivate now»: a page that says what will happen, and then the asking of `ohsessions.lifecycle`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from ohsessions import lifecycle
from ohsessions.admin import overview
from ohsessions.admin.filters import uuid_or_none
from ohsessions.core.errors import IllegalTransition, WireError

if TYPE_CHECKING:
    from ohsessions.admin.sessions import SessionAdmin

MOST = 200
"""Sessions at a time. Each is a transaction of its own, while the operator waits for the answer."""


def view(admin: SessionAdmin, request: HttpRequest) -> HttpResponse:
    """Asks at a GET, does it at a POST. Both name the sessions by `session`, as often as needed."""
    if not admin.has_steer_permission(request):
        raise PermissionDenied
    named = (request.POST if request.method == "POST" else request.GET).getlist("session")
    ids = [key for key in map(uuid_or_none, named) if key]
    return do(request, ids) if request.method == "POST" else ask(admin, request, ids)


def ask(admin: SessionAdmin, request: HttpRequest, ids: Sequence[UUID]) -> HttpResponse:
    """The page on which the operator confirms."""
    sessions = list(admin.get_queryset(request).filter(pk__in=ids[:MOST]).select_related("owner", "worker"))
    if not sessions or len(ids) > MOST:
        text = f"Select at most {MOST} sessions at a time." if sessions else "There is no such session."
        messages.error(request, text)
        return HttpResponseRedirect(reverse("admin:ohsessions_session_changelist"))
    context = admin.admin_site.each_context(request) | {
        "title": "Passivate now?",
        "opts": admin.opts,
        "media": admin.media,
        "rows": [(session, overview.consequence(session, session.attached_count)) for session in sessions],
        "attached": sum(
            session.attached_count for session in sessions if session.state in overview.STEERABLE
        ),
        "back": _after(ids),
    }
    return TemplateResponse(request, "admin/ohsessions/session/passivate.html", context)


def do(request: HttpRequest, ids: Sequence[UUID]) -> HttpResponse:
    """Asks for each session in turn, and tells the operator what came of it: each outcome once."""
    by = f"operator {request.user.get_username()}"
    outcomes: Counter[tuple[int, str]] = Counter()
    for session_id in ids[:MOST]:
        try:
            outcomes[messages.SUCCESS, lifecycle.request_passivation(session_id, by=by)] += 1
        except (WireError, IllegalTransition) as error:
            outcomes[messages.ERROR, str(error)] += 1
    for (level, outcome), count in outcomes.items():
        messages.add_message(request, level, f"{count} sessions: {outcome}" if count > 1 else outcome)
    return HttpResponseRedirect(_after(ids))


def _after(ids: Sequence[UUID]) -> str:
    """Where to go then: to the session, or to the list if there were several."""
    if len(ids) == 1:
        return reverse("admin:ohsessions_session_change", args=[ids[0]])
    return reverse("admin:ohsessions_session_changelist")
