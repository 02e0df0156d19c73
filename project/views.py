"""The console: the page where a user starts or joins a session."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from ohsessions.conf import conf


@require_safe
@ensure_csrf_cookie
def console(request: HttpRequest, session_id: UUID | None = None) -> HttpResponse:
    """Return the console's page. The session's id is in the path; the token is in the fragment, which is not
    sent to the server."""
    config = {
        "path": "/" + conf.PATH,
        "runtimes": list(conf.RUNTIMES),
        "default_runtime": conf.DEFAULT_RUNTIME,
        "session_id": str(session_id) if session_id else None,
        "user": {"name": request.user.get_username(), "authenticated": request.user.is_authenticated},
        "api": reverse("ohsessions:sessions"),
        "login_url": reverse("admin:login"),
        "admin_url": reverse("admin:index"),
    }
    return render(request, "console.html", {"config": config})
