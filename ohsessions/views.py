"""HTTP beside the sockets: a JSON API for a user's sessions, and the answers to probes.

The API is for requests that need no connection: list, show, rename, share. A client sends a session's token
(``Authorization: Bearer …``) or has logged in. A login is a cookie, and pages of other sites can make a
browser send it. So requests that change something by a login also need Django's CSRF token. Errors are those
of the wire, with their code as the status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, UnreadablePostError
from django.middleware.csrf import CsrfViewMiddleware
from django.urls import get_script_prefix
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from ohsessions import api, lifecycle
from ohsessions.access import Grant, Role, authorize, bearer_token, issue_token, login_of, policy
from ohsessions.conf import conf
from ohsessions.core.errors import WireError
from ohsessions.core.runtime import JSON
from ohsessions.core.titles import MAX_TITLE
from ohsessions.core.wire import check_json, malformed, timestamp
from ohsessions.models import Link, Session
from ohsessions.processes.health import Status, shared_readiness

logger = logging.getLogger(__name__)

MAX_BODY = 16 * 1024
"""Bytes of a request's body: more than a title of 200 escaped characters needs."""
MAX_LABEL = 100
MOST_LISTED = 100

Allows = Callable[[Any, Session, Role], bool]
"""A method of the policy."""
Handler = Callable[..., JSON]
"""A function of the request and the URL's arguments. Returns the answer's JSON, or raises WireError."""


def endpoint(**handlers: Handler) -> Callable[..., HttpResponse]:
    """Return a view with one handler per HTTP method. It answers results and WireErrors as JSON."""
    if "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]

    @csrf_exempt  # _check_csrf() checks the requests that a cookie authenticates.
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            handler = handlers.get(request.method or "")
            if handler is None:
                raise WireError(405, "method", f"Use {' or '.join(handlers)} here.")
            return _answer(handler(request, **kwargs))
        except WireError as error:
            response = _refusal(error)
        except (OperationalError, InterfaceError):
            logger.warning("%s %s: the database is away", request.method, request.path, exc_info=True)
            response = _refusal(WireError(503, "unavailable", "The database is away. Try again soon."))
        if response.status_code == 405:
            response["Allow"] = ", ".join(handlers)
        return response

    return view


def _answer(content: JSON, status: int = 200) -> HttpResponse:
    # No cache may store tokens and titles: they are private.
    return JsonResponse(content, status=status, headers={"Cache-Control": "no-store"})


def _refusal(error: WireError) -> HttpResponse:
    fields = {"error_code": error.code, "reason": error.reason, "message": error.message}
    response = _answer({"error": fields | error.extra}, error.code)
    if error.code == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def list_sessions(request: HttpRequest) -> JSON:
    """Return the logged-in user's sessions, the last active ones first."""
    if not request.user.is_authenticated:
        raise _login_required()
    mine = policy().listed(request.user, Session.objects.all()).order_by("-active_at")
    mine = mine.only("id", "title", "runtime", "state", "created_at", "active_at")
    return {"sessions": [_describe(session) for session in mine[:MOST_LISTED]]}


def show_session(request: HttpRequest, session_id: UUID) -> JSON:
    """Return one session, and the role in which the client may join it."""
    grant = _admit(request, session_id)
    return _describe(grant.session) | {"role": grant.role.value}


def rename_session(request: HttpRequest, session_id: UUID) -> JSON:
    """Rename a session, from ``{"title": …}``, and return it."""
    body = _read(request)
    grant = _admit_to(policy().may_rename, request, session_id)
    title = body.get("title")
    if set(body) != {"title"} or not isinstance(title, str) or len(title) > MAX_TITLE:
        raise malformed(f"Send one key, `title`: a string of at most {MAX_TITLE} characters.")
    grant.session.title = api.rename(session_id, title)
    return _describe(grant.session) | {"role": grant.role.value}


def share_session(request: HttpRequest, session_id: UUID) -> JSON:
    """Create a link, from ``{"role": …}`` with an optional ``"label"`` and ``"expires_in"`` (seconds). Return
    a token for that role, and the URL to share."""
    body = _read(request)
    grant = _admit_to(policy().may_share, request, session_id)
    role, label, seconds = _read_share(body)
    if grant.role is Role.VIEWER and role is not Role.VIEWER:
        raise WireError(403, "role", "Nobody can give out more than they may themselves.")
    link = lifecycle.share(grant, role, request.user, label=label, seconds=seconds)
    token = issue_token(grant.session, role, link=link)
    # Browsers do not send the fragment, so the token gets into no server's log.
    return {"token": token, "role": role.value, "url": f"{console_path(session_id)}#{token}"}


def _read_share(body: dict[str, JSON]) -> tuple[Role, str, float | None]:
    role, label, seconds = body.get("role"), body.get("label", ""), body.get("expires_in")
    if not body.keys() <= {"role", "label", "expires_in"} or role not in (Role.EDITOR, Role.VIEWER):
        raise malformed("Send `role`: editor or viewer; and, if you like, `label` and `expires_in`.")
    if not isinstance(label, str) or len(label) > MAX_LABEL:
        raise malformed(f"`label` is a string of at most {MAX_LABEL} characters: for whom the link is.")
    if seconds is None:
        return Role(role), label, None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 1 <= seconds <= conf.TOKEN_MAX_AGE:
        raise malformed(f"`expires_in` is a number of seconds, from 1 to {conf.TOKEN_MAX_AGE}.")
    return Role(role), label, float(seconds)


def list_links(request: HttpRequest, session_id: UUID) -> JSON:
    """Return the links to a session that are still valid, the newest first, without their tokens."""
    _admit_to(policy().may_share, request, session_id)
    links = lifecycle.live_links(session_id).select_related("created_by")
    return {"links": [_describe_link(link) for link in links]}


def revoke_link(request: HttpRequest, session_id: UUID, link_id: UUID) -> JSON:
    """Revoke a link and the links that were made with it, and end the connections that came by them."""
    _admit_to(policy().may_share, request, session_id)
    api.revoke_link(session_id, link_id)
    return {"status": "ok"}


def revoke_links(request: HttpRequest, session_id: UUID) -> JSON:
    """Revoke all links and tokens of a session, and end all its connections. Return a new token for the
    client, or None if the client came by a link."""
    grant = _admit_to(policy().may_share, request, session_id)
    count = api.revoke_links(session_id)
    token = None
    if grant.link is None:
        grant.session.refresh_from_db(fields=["token_version"])
        login = grant.issued_to or login_of(request.user, getattr(request, "session", None))
        token = issue_token(grant.session, grant.role, login, expires_at=grant.expires_at)
    return {"status": "ok", "connections": count, "token": token}


def no_such_address(request: HttpRequest, rest: str) -> JSON:
    raise WireError(404, "unknown_address", "There is nothing at this address. They end with a slash.")


sessions = endpoint(GET=list_sessions)
session = endpoint(GET=show_session, PATCH=rename_session)
share = endpoint(POST=share_session)
links = endpoint(GET=list_links, DELETE=revoke_links)
link = endpoint(DELETE=revoke_link)
nothing = endpoint(**dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), no_such_address))


def console_path(session_id: UUID) -> str:
    """Return the path at which the console shows a session."""
    return f"{get_script_prefix()}s/{session_id}"


def _describe(session: Session) -> dict[str, JSON]:
    return {
        "id": str(session.pk),
        "title": session.title,
        "runtime": session.runtime,
        "state": session.state,
        "created_at": timestamp(session.created_at),
        "last_activity_at": timestamp(session.active_at),
        "url": console_path(session.pk),
    }


def _describe_link(link: Link) -> dict[str, JSON]:
    return {
        "id": str(link.pk),
        "role": link.role,
        "label": link.label,
        "created_by": link.created_by.get_username() if link.created_by else None,
        "created_at": timestamp(link.created_at),
        "expires_at": timestamp(link.expires_at),
        "last_used_at": timestamp(link.last_used_at) if link.last_used_at else None,
    }


def _admit(request: HttpRequest, session_id: UUID) -> Grant:
    """Return the grant of a request; see access.authorize(). An anonymous user without a token gets 401
    `login_required` instead of 404, whether the session exists or not."""
    token = _token(request)
    try:
        return authorize(request.user, token, session_id)
    except WireError as error:
        if token is None and error.code == 404 and not request.user.is_authenticated:
            raise _login_required() from error
        raise


def _admit_to(allows: Allows, request: HttpRequest, session_id: UUID) -> Grant:
    """Return the grant of a request that the policy must allow; see _admit(). Raises WireError 403 `role` if
    it does not, or `csrf` if a request other than GET and HEAD has no token and fails Django's CSRF check."""
    if request.method not in ("GET", "HEAD") and _token(request) is None:
        _check_csrf(request)
    grant = _admit(request, session_id)
    if not allows(request.user, grant.session, grant.role):
        raise WireError(403, "role", f"That is not for you: you came as its {grant.role}.")
    return grant


def _token(request: HttpRequest) -> str | None:
    return bearer_token(request.headers.get("Authorization", ""))


def _check_csrf(request: HttpRequest) -> None:
    """Run Django's CSRF check. Raises WireError 403 `csrf` if it fails. (Django logs the reason.)"""

    def unprotected(request: HttpRequest) -> HttpResponseBase:
        raise NotImplementedError("The check is made for a view; this one is not called.")

    check = CsrfViewMiddleware(unprotected)
    check.process_request(request)
    if check.process_view(request, unprotected, (), {}) is not None:
        raise WireError(403, "csrf", "Send the cookie `csrftoken` again as the header X-CSRFToken.")


def _login_required() -> WireError:
    return WireError(401, "login_required", "Log in, or send a session's token as `Authorization: Bearer …`.")


def _read(request: HttpRequest) -> dict[str, JSON]:
    """Return the request's body: one JSON object. Raises WireError 400 or 413."""
    if request.content_type != "application/json":
        raise malformed("Send JSON, with `Content-Type: application/json`.")
    try:
        text = request.read(MAX_BODY + 1)
        if len(text) > MAX_BODY:
            raise WireError(413, "too_large", f"The body may have at most {MAX_BODY} bytes.")
        body = json.loads(text)
    except UnreadablePostError as error:
        raise malformed("The body broke off.") from error
    except (ValueError, RecursionError) as error:
        raise malformed("The body is not JSON.") from error
    if not isinstance(body, dict):
        raise malformed("The body must be one JSON object.")
    check_json(body)
    return body


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer that the process is alive. Checks nothing else: to restart the process repairs no database."""
    return _answer({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer whether to send clients here: 200, or 503 if not, with all checks. It may be a second old."""
    found = shared_readiness.get()
    checks = {name: asdict(check) for name, check in found.checks.items()}
    content = {"status": found.status.value, "checks": checks}
    return _answer(content, 503 if found.status is Status.UNREADY else 200)
