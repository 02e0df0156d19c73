"""Logins and tokens in the database: their validity and its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings as site_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core import signing
from django.test import Client, RequestFactory

from ohsessions import lifecycle
from ohsessions.access import Login, Role, authorize, ended_logins, issue_token, login_of
from ohsessions.access.tokens import TOKEN_SALT, parse_token
from ohsessions.core.errors import WireError
from ohsessions.lifecycle import links
from ohsessions.models import Link, Session

STRANGER = AnonymousUser()
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.fixture
def ann(db: None) -> Any:
    return get_user_model().objects.create_user("ann", password="secret")


def make_session(owner: Any = None) -> Session:
    times = {"created_at": NOW, "state_at": NOW, "active_at": NOW}
    return Session.objects.create(owner=owner, runtime="echo", state="running", **times)


def log_in(user: Any) -> tuple[Client, Login]:
    """Return a browser that has logged in, and the login as handshakes identify it."""
    client = Client()
    client.force_login(user)
    login = login_of(user, session_of(client))
    assert login is not None
    return client, login


def session_of(client: Client) -> Any:
    """Return Django's session, read as in a handshake."""
    key = client.cookies[site_settings.SESSION_COOKIE_NAME].value
    session = import_module(site_settings.SESSION_ENGINE).SessionStore(key)
    session.get("_auth_user_id")
    return session


def is_refused(token: str, user: Any = STRANGER) -> bool:
    try:
        authorize(user, token)
    except WireError as error:
        return (error.code, error.reason) == (401, "invalid_token")
    return False


@pytest.mark.parametrize("engine", ENGINES)
def test_a_login_holds_until_it_ends_wherever_djangos_sessions_are(
    ann: Any, settings: Any, engine: str, tmp_path: Any
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    client, login = log_in(ann)
    _, other = log_in(ann)
    assert login.session
    assert ended_logins([login, other]) == set()
    if engine != "signed_cookies":  # only the browser keeps these sessions
        session_of(client).flush()
        assert ended_logins([login, other]) == {login}
    ann.set_password("another one")
    ann.save()
    assert ended_logins([login, other]) == {login, other}


def test_many_logins_are_asked_about_in_two_queries(ann: Any, django_assert_num_queries: Any) -> None:
    bob = get_user_model().objects.create_user("bob", password="secret")
    logins = [log_in(user)[1] for user in (ann, bob) for _ in range(20)]
    with django_assert_num_queries(2):
        assert ended_logins(logins) == set()
    get_user_model().objects.filter(pk=bob.pk).update(is_active=False)
    assert ended_logins(logins) == set(logins[20:])


def test_a_new_secret_key_ends_no_login_while_the_old_one_is_a_fallback(ann: Any, settings: Any) -> None:
    _, login = log_in(ann)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "a new one"
    assert ended_logins([login]) == set()
    settings.SECRET_KEY_FALLBACKS = []
    assert ended_logins([login]) == {login}


def test_inactive_people_hold_their_login_where_the_site_lets_them_in(ann: Any, settings: Any) -> None:
    _, login = log_in(ann)
    get_user_model().objects.update(is_active=False)
    assert ended_logins([login]) == {login}
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    assert ended_logins([login]) == set()


def test_a_session_that_logged_nobody_in_is_no_part_of_a_login(ann: Any) -> None:
    request = RequestFactory().get("/")
    request.session = import_module(site_settings.SESSION_ENGINE).SessionStore()
    request.session["basket"] = 1
    request.session.save()
    login = login_of(ann, request.session)
    assert login is not None
    assert login.session == ""
    request.session.flush()
    assert ended_logins([login]) == set()


def test_a_persons_token_tells_nobody_whose_it_is_or_by_which_login(ann: Any) -> None:
    _, login = log_in(ann)
    token = issue_token(make_session(ann), Role.OWNER, login)
    content = str(signing.loads(token, salt=TOKEN_SALT))
    for secret in (login.session, login.auth):
        assert secret not in content
    assert parse_token(token).login == login
    assert login.session not in repr(login)


def old_token(session: Session, role: str = "owner") -> str:
    """Return a token as versions made it before tokens had kinds."""
    return signing.dumps({"s": session.pk.hex, "r": role, "v": 1}, salt=TOKEN_SALT)


def test_an_old_owners_token_holds_while_the_owner_may_log_in(ann: Any) -> None:
    mine, nobodys = make_session(ann), make_session()
    assert not is_refused(old_token(mine))
    get_user_model().objects.update(is_active=False)
    assert is_refused(old_token(mine))
    assert not is_refused(old_token(mine, "editor"))
    assert not is_refused(old_token(nobodys))


def test_a_token_of_somebody_elses_login_gives_the_person_who_shows_it_nothing_when_that_has_ended(
    ann: Any,
) -> None:
    bob = get_user_model().objects.create_user("bob", password="secret")
    client, login = log_in(ann)
    token = issue_token(make_session(ann), Role.OWNER, login)
    for user in (STRANGER, bob, ann):
        assert not is_refused(token, user)
    session_of(client).flush()
    assert [is_refused(token, user) for user in (STRANGER, bob, ann)] == [True, True, False]


def test_what_revoking_all_gives_ends_when_what_was_shown_would_have(ann: Any) -> None:
    client, login = log_in(ann)
    session = make_session(ann)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    shown = issue_token(session, Role.OWNER, login, expires_at=soon)
    answer = Client().delete(
        f"/api/sessions/{session.pk}/links/", headers={"Authorization": f"Bearer {shown}"}
    )
    given = answer.json()["token"]
    assert is_refused(shown)
    assert not is_refused(given)
    assert parse_token(given).expires_at <= soon
    session_of(client).flush()
    assert is_refused(given)


def test_links_of_a_session_are_bounded_in_number_those_that_have_ended_too(ann: Any) -> None:
    grant = authorize(ann, None, make_session(ann).pk)
    made = [lifecycle.share(grant, Role.VIEWER, ann) for _ in range(links.MOST_LINKS)]
    with pytest.raises(WireError, match="Revoke some") as refused:
        lifecycle.share(grant, Role.VIEWER, ann)
    assert (refused.value.code, refused.value.reason) == (429, "quota")
    for _ in range(2 * links.MOST_ENDED):
        lifecycle.revoke_link(grant.session.pk, made.pop().pk)
        made.append(lifecycle.share(grant, Role.VIEWER, ann))
    assert Link.objects.count() <= links.MOST_LINKS + links.MOST_ENDED


def test_a_link_that_is_revoked_while_it_is_used_to_make_another_makes_none(ann: Any) -> None:
    session = make_session(ann)
    link = lifecycle.share(authorize(ann, None, session.pk), Role.EDITOR, ann)
    grant = authorize(STRANGER, issue_token(session, Role.EDITOR, link=link))
    lifecycle.revoke_link(session.pk, link.pk)
    with pytest.raises(WireError, match="not valid"):
        lifecycle.share(grant, Role.VIEWER, STRANGER)
    again = authorize(ann, None, session.pk)
    lifecycle.revoke_all(session.pk)
    with pytest.raises(WireError, match="not valid"):
        lifecycle.share(again, Role.VIEWER, ann)
