"""The JSON API and the probes, over HTTP, on the real database."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpResponse
from django.test import Client
from django.urls import include, path

from ohsessions import views
from ohsessions.access import Role, issue_token
from ohsessions.access.tokens import parse_token
from ohsessions.concurrency.shared import Shared
from ohsessions.concurrency.threads import Threads
from ohsessions.core.clock import FakeClock
from ohsessions.database import causes, storage
from ohsessions.models import Process, Session
from ohsessions.processes import health

urlpatterns = [
    path("api/", include("ohsessions.urls")),
    path("healthz", views.healthz),
    path("readyz", views.readyz),
]
pytestmark = pytest.mark.urls(__name__)

CREATED = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def make_user(name: str) -> Any:
    return get_user_model().objects.create_user(name, password="secret")


def make_session(owner: Any = None, *, title: str = "", age: int = 0) -> Session:
    return Session.objects.create(
        owner=owner,
        title=title,
        runtime="echo",
        state="running",
        created_at=CREATED,
        state_at=CREATED,
        active_at=CREATED - timedelta(hours=age),
    )


def address(session: Session, rest: str = "") -> str:
    return f"/api/sessions/{session.pk}/{rest}"


def send(client: Client, method: str, url: str, body: Any, **options: Any) -> HttpResponse:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.generic(method, url, data, content_type="application/json", **options)


def bearer(session: Session, role: Role) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue_token(session, role)}"}


def error_of(response: HttpResponse) -> tuple[int, str]:
    """Check that a refusal is complete, and return its status and reason."""
    error = json.loads(response.content)["error"]
    assert error["error_code"] == response.status_code
    assert error["message"]
    assert response["Cache-Control"] == "no-store"
    return response.status_code, error["reason"]


@pytest.fixture
def user(db: None) -> Any:
    return make_user("ann")


@pytest.fixture
def client(user: Any) -> Client:
    """Return a client that is logged in as ann, and that checks CSRF as a site does."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


@pytest.fixture
def csrf(client: Client) -> dict[str, str]:
    """Return the headers that a page of the site sends along."""
    client.cookies["csrftoken"] = "a" * 32
    return {"X-CSRFToken": "a" * 32}


def test_list_has_the_users_own_sessions_and_the_last_active_first(client: Client, user: Any) -> None:
    older = make_session(user, title="older", age=2)
    newer = make_session(user, title="newer", age=1)
    make_session(make_user("bob"))
    make_session(None)
    response = client.get("/api/sessions/")
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    listed = response.json()["sessions"]
    assert [entry["id"] for entry in listed] == [str(newer.pk), str(older.pk)]
    assert listed[1] == {
        "id": str(older.pk),
        "title": "older",
        "runtime": "echo",
        "state": "running",
        "created_at": "2026-03-01T09:30:00.000000+00:00",
        "last_activity_at": "2026-03-01T07:30:00.000000+00:00",
        "url": f"/s/{older.pk}",
    }


def test_list_ends_after_the_newest_hundred_and_is_one_query(
    client: Client, user: Any, django_assert_num_queries: Any
) -> None:
    for age in range(103):
        make_session(user, title=str(age), age=age)
    with django_assert_num_queries(3):  # session of the login, user, list
        listed = client.get("/api/sessions/").json()["sessions"]
    assert [entry["title"] for entry in listed] == [str(age) for age in range(100)]


@pytest.mark.django_db
def test_list_asks_strangers_to_log_in() -> None:
    response = Client().get("/api/sessions/")
    assert error_of(response) == (401, "login_required")
    assert response["WWW-Authenticate"] == "Bearer"


def test_owner_sees_the_session_and_the_role(client: Client, user: Any) -> None:
    session = make_session(user, title="mine")
    shown = client.get(address(session)).json()
    assert (shown["id"], shown["title"], shown["role"]) == (str(session.pk), "mine", "owner")


@pytest.mark.django_db
@pytest.mark.parametrize("role", list(Role))
def test_token_lets_in_without_a_login_and_in_its_role(role: Role) -> None:
    session = make_session(make_user("bob"))
    assert Client().get(address(session), headers=bearer(session, role)).json()["role"] == role.value


@pytest.mark.django_db
def test_stranger_learns_the_same_of_a_session_and_of_none() -> None:
    existing = Client().get(address(make_session()))
    missing = Client().get(f"/api/sessions/{uuid4()}/")
    assert error_of(existing) == error_of(missing) == (401, "login_required")
    assert existing.content == missing.content


def test_session_of_somebody_else_does_not_exist(client: Client) -> None:
    assert error_of(client.get(address(make_session(make_user("bob"))))) == (404, "unknown_session")
    assert error_of(client.get(f"/api/sessions/{uuid4()}/")) == (404, "unknown_session")


def test_bad_token_is_refused_also_when_the_login_would_do(client: Client, user: Any) -> None:
    session, other = make_session(user), make_session(user)
    revoked = bearer(session, Role.OWNER)
    Session.objects.filter(pk=session.pk).update(token_version=2)
    for headers in (
        revoked,
        bearer(other, Role.OWNER),
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer"},
    ):
        assert error_of(client.get(address(session), headers=headers)) == (401, "invalid_token")


def test_password_of_a_proxy_is_not_taken_for_a_token(client: Client, user: Any) -> None:
    response = client.get(address(make_session(user)), headers={"Authorization": "Basic YTpi"})
    assert response.status_code == 200


def test_owner_renames_and_nothing_else_changes(client: Client, user: Any, csrf: dict[str, str]) -> None:
    session = make_session(user, title="old")
    before = Session.objects.filter(pk=session.pk).values().get()
    response = send(client, "PATCH", address(session), {"title": "new"}, headers=csrf)
    assert response.status_code == 200, response.content
    assert response.json() == client.get(address(session)).json()
    assert Session.objects.filter(pk=session.pk).values().get() == before | {"title": "new"}


@pytest.mark.django_db
def test_editor_renames_with_a_token_alone_and_a_viewer_does_not() -> None:
    session = make_session(make_user("bob"), title="old")
    client = Client(enforce_csrf_checks=True)
    editor, viewer = bearer(session, Role.EDITOR), bearer(session, Role.VIEWER)
    assert (
        send(client, "PATCH", address(session), {"title": "new"}, headers=editor).json()["role"] == "editor"
    )
    assert error_of(send(client, "PATCH", address(session), {"title": "x"}, headers=viewer)) == (403, "role")
    session.refresh_from_db()
    assert session.title == "new"


DECEPTIVE, HARMLESS = "\u202egpj.exe\nrm -rf", "gpj.exe rm -rf"


def test_a_title_that_deceives_is_cleaned_when_it_is_given(
    client: Client, user: Any, csrf: dict[str, str]
) -> None:
    session = make_session(user)
    answer = send(client, "PATCH", address(session), {"title": DECEPTIVE}, headers=csrf).json()
    assert answer["title"] == HARMLESS
    with connection.cursor() as cursor:
        cursor.execute("SELECT title FROM ohsessions_session")
        assert cursor.fetchall() == [(HARMLESS,)]


def test_a_title_of_before_that_deceives_is_shown_cleaned(client: Client, user: Any) -> None:
    session = make_session(user)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ohsessions_session SET title = %s", [DECEPTIVE])
    assert client.get(address(session)).json()["title"] == HARMLESS
    assert client.get("/api/sessions/").json()["sessions"][0]["title"] == HARMLESS
    assert list(Session.objects.values_list("title", flat=True)) == [HARMLESS]


@pytest.mark.parametrize("method", ["PATCH", "POST"])
def test_cookie_without_csrf_token_changes_nothing(client: Client, user: Any, method: str) -> None:
    session = make_session(user, title="old")
    url = address(session, "share/" if method == "POST" else "")
    body = {"role": "viewer"} if method == "POST" else {"title": "new"}
    assert error_of(send(client, method, url, body)) == (403, "csrf")
    assert error_of(send(client, method, url, body, headers={"X-CSRFToken": "b" * 32})) == (403, "csrf")
    session.refresh_from_db()
    assert session.title == "old"


MALFORMED: list[Any] = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"null",
    b"[" * 9000,
    b'{"title": NaN}',
    b'{"title": "\\u0000"}',
    b'{"title": "\\ud800"}',
    {},
    {"title": None},
    {"title": 1},
    {"title": "x" * 201},
    {"title": "x", "state": "closed"},
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: str(body)[:24])
def test_malformed_rename_is_refused(client: Client, user: Any, csrf: dict[str, str], body: Any) -> None:
    session = make_session(user, title="old")
    status, reason = error_of(send(client, "PATCH", address(session), body, headers=csrf))
    assert status == 400
    assert reason in ("malformed", "not_json", "too_deep")
    session.refresh_from_db()
    assert session.title == "old"


def test_forms_of_other_sites_are_refused(client: Client, user: Any, csrf: dict[str, str]) -> None:
    response = client.post(address(make_session(user), "share/"), {"role": "viewer"}, headers=csrf)
    assert error_of(response) == (400, "malformed")


def test_large_body_is_refused(client: Client, user: Any, csrf: dict[str, str]) -> None:
    body = {"title": "x" * views.MAX_BODY}
    assert error_of(send(client, "PATCH", address(make_session(user)), body, headers=csrf)) == (
        413,
        "too_large",
    )


@pytest.mark.parametrize(
    ("mine", "given"),
    [("owner", "editor"), ("owner", "viewer")],
)
@pytest.mark.django_db
def test_share_gives_a_token_of_the_role_asked_for(mine: str, given: str) -> None:
    session = make_session(make_user("bob"))
    headers = bearer(session, Role(mine))
    shared = send(Client(), "POST", address(session, "share/"), {"role": given}, headers=headers).json()
    token = parse_token(shared["token"])
    assert (token.session_id, token.role, token.version) == (session.pk, Role(given), 1)
    assert shared == {"token": shared["token"], "role": given, "url": f"/s/{session.pk}#{shared['token']}"}


def test_owner_shares_with_the_login(client: Client, user: Any, csrf: dict[str, str]) -> None:
    response = send(client, "POST", address(make_session(user), "share/"), {"role": "editor"}, headers=csrf)
    assert response.status_code == 200


@pytest.mark.django_db
def test_only_the_owner_shares_and_nobody_gives_ownership() -> None:
    session = make_session(make_user("bob"))
    url = address(session, "share/")
    owner = bearer(session, Role.OWNER)
    for role in (Role.VIEWER, Role.EDITOR):
        other = bearer(session, role)
        assert error_of(send(Client(), "POST", url, {"role": "viewer"}, headers=other)) == (403, "role")
    for body in (
        {"role": "owner"},
        {"role": "admin"},
        {"role": []},
        {"role": None},
        {},
        {"role": "viewer", "x": 1},
        {"role": "viewer", "label": "x" * 101},
        {"role": "viewer", "label": 1},
        {"role": "viewer", "expires_in": 0},
        {"role": "viewer", "expires_in": True},
        {"role": "viewer", "expires_in": 10**9},
    ):
        assert error_of(send(Client(), "POST", url, body, headers=owner)) == (400, "malformed")


@pytest.mark.django_db
def test_other_methods_are_refused_with_those_that_work() -> None:
    session = make_session()
    for url, allowed in (
        ("/api/sessions/", "GET, HEAD"),
        (address(session), "GET, PATCH, HEAD"),
        (address(session, "share/"), "POST"),
    ):
        response = Client().delete(url)
        assert error_of(response) == (405, "method")
        assert response["Allow"] == allowed


def test_nothing_is_answered_as_json() -> None:
    for url in ("/api/sessions/17/", f"/api/sessions/{uuid4()}", f"/api/sessions/{uuid4()}/x/"):
        assert error_of(Client().get(url)) == (404, "unknown_address")


def test_database_that_is_away_is_told_and_logged(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> Any:
        raise OperationalError("connection to server at db.internal failed")

    monkeypatch.setattr(views, "authorize", fail)
    response = client.get(f"/api/sessions/{UUID(int=1)}/")
    assert error_of(response) == (503, "unavailable")
    assert b"internal" not in response.content
    assert "the database is away" in caplog.text


def test_healthz_answers_without_the_database() -> None:
    response = Client().get("/healthz")  # the test may not use the database: a query would fail it
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert response["Cache-Control"] == "no-store"


@pytest.fixture(autouse=True)
def forget_readiness() -> None:
    """Forget the readiness that an earlier test has found."""
    health.shared_readiness._found = None


def make_worker(state: str = "active") -> Process:
    return Process.objects.create(
        kind="worker",
        state=state,
        host="w1.internal",
        pid=1,
        birth="b",
        version="1",
        started_at=CREATED,
        seen_at=CREATED,
    )


@pytest.mark.django_db(transaction=True)
def test_readyz_is_ready_with_everything_there() -> None:
    make_worker()
    response = Client().get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {
            "database": {"ok": True, "detail": "Answers."},
            "migrations": {"ok": True, "detail": "All are applied."},
            "workers": {"ok": True, "detail": "1 active."},
            "storage": {"ok": True, "detail": "Nothing was refused for want of room."},
            "channel_layer": {"ok": True, "detail": "Answers."},
            "processes": {"ok": True, "detail": "As many as there may be."},
        },
    }


@pytest.mark.django_db(transaction=True)
def test_readyz_is_degraded_without_an_active_worker() -> None:
    make_worker("draining")
    make_worker("gone")
    response = Client().get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert not response.json()["checks"]["workers"]["ok"]


class DeadLayer:
    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        raise ConnectionError("redis.internal:6379 refused")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("layer", [DeadLayer(), None])
def test_readyz_is_degraded_without_the_channel_layer(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_worker()
    monkeypatch.setattr(health, "get_channel_layer", lambda: layer)
    response = Client().get("/readyz")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert not response.json()["checks"]["channel_layer"]["ok"]
    assert b"internal" not in response.content


@pytest.mark.django_db(transaction=True)
def test_readyz_is_unready_while_migrations_are_missing() -> None:
    recorder = MigrationRecorder(connection)
    ((app, name),) = MigrationLoader(connection).graph.leaf_nodes("ohsessions")
    recorder.record_unapplied(app, name)
    try:
        response = Client().get("/readyz")
    finally:
        recorder.record_applied(app, name)
    assert (response.status_code, response.json()["status"]) == (503, "unready")
    assert not response.json()["checks"]["migrations"]["ok"]


@pytest.mark.django_db(transaction=True)
def test_readyz_is_unready_when_the_database_refuses_and_tells_no_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> Any:
        raise OperationalError("connection to server at db.internal failed")

    monkeypatch.setattr(health, "_select", refuse)
    response = Client().get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "unready")
    assert not any(response.json()["checks"][name]["ok"] for name in ("database", "migrations", "workers"))
    assert b"internal" not in response.content


@pytest.mark.django_db(transaction=True)
def test_readyz_answers_while_the_database_hangs_and_keeps_few_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()

    def hang() -> health.Check:
        released.wait(60)
        return health.Check(True, "Answers.")

    monkeypatch.setattr(health, "_select", hang)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(views, "shared_readiness", Shared(health.readiness, 0))
    asking = Threads("ohsessions-readyz of this test", health.MOST_WAITERS)
    monkeypatch.setattr(health, "_asking", asking)
    answers = [Client().get("/readyz").json() for _ in range(health.MOST_WAITERS + 2)]
    waiting = [thread for thread in threading.enumerate() if thread.name == "ohsessions-readyz of this test"]
    released.set()
    asking.end()
    for thread in waiting:
        thread.join(60)
    assert len(waiting) == health.MOST_WAITERS
    assert {answer["status"] for answer in answers} == {"unready"}
    assert answers[0]["checks"]["database"]["detail"] == "No answer within 0.02 s."
    assert answers[-1]["checks"]["database"]["detail"] == "Earlier checks still wait for the database."


@pytest.mark.django_db(transaction=True)
def test_probes_each_second_log_what_they_find_when_it_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_worker()
    monkeypatch.setattr(views, "shared_readiness", Shared(health.readiness, 0))
    Client().get("/readyz")  # ends an outage that earlier tests have left
    caplog.clear()
    caplog.set_level("INFO", health.logger.name)
    for layer in (DeadLayer(), health.get_channel_layer()):
        monkeypatch.setattr(health, "get_channel_layer", lambda layer=layer: layer)
        for _ in range(3):
            Client().get("/readyz")
    lines = [record.getMessage() for record in caplog.records if record.name == health.logger.name]
    assert lines == [
        "Readiness check channel_layer fails: ConnectionError: redis.internal:6379 refused",
        "Readiness check channel_layer works again.",
    ]


@pytest.mark.django_db(transaction=True)
def test_readyz_looks_once_for_all_who_ask_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look() -> health.Check:
        looks.append(1)
        return health.Check(True, "Answers.")

    clock = FakeClock()
    monkeypatch.setattr(health, "_select", look)
    monkeypatch.setattr(views, "shared_readiness", Shared(health.readiness, health.KEPT, clock))
    assert len({Client().get("/readyz").content for _ in range(9)}) == 1
    assert len(looks) == 1
    clock.advance(health.KEPT)
    Client().get("/readyz")
    assert len(looks) == 2


@pytest.mark.django_db(transaction=True)
def test_readyz_is_unready_while_the_disk_is_full_and_finds_out_when_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_worker()
    monkeypatch.setattr(views, "shared_readiness", Shared(health.readiness, 0))
    full = OperationalError("database or disk is full")
    full.__cause__ = type("Full", (Exception,), {"sqlite_errorname": "SQLITE_FULL"})()
    store = health._store

    def fail() -> None:
        raise full

    storage.failed("A test fills it.")
    try:
        monkeypatch.setattr(health, "_store", fail)
        response = Client().get("/readyz")
        assert (response.status_code, response.json()["status"]) == (503, "unready")
        assert "disk is full" in response.json()["checks"]["storage"]["detail"]
        monkeypatch.setattr(health, "_store", store)
        monkeypatch.setattr(causes, "QUIET", 0)
        assert Client().get("/readyz").status_code == 200
        assert not storage.lasts
    finally:
        storage.worked()
    assert list(Process.objects.values_list("state", flat=True)) == ["active"], "the try leaves nothing"
