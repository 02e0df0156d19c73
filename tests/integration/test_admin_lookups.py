"""Staff can learn nothing from the admin beside the contents of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.exceptions import SuspiciousOperation
from django.db import connection as database_connection
from django.db.models.expressions import RawSQL
from django.http import QueryDict
from django.test import Client, RequestFactory
from django.urls import include, path, reverse

from ohsessions.admin import patience
from ohsessions.admin.lookups import MOST_SEARCHED
from ohsessions.admin.sessions import SessionAdmin
from ohsessions.models import Connection, Event, Process, Session, Transition
from tests.demo_data import SECRET, Demo, fill

urlpatterns = [path("admin/", admin.site.urls), path("api/", include("ohsessions.urls"))]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

DATES = {"active_at__year", "active_at__month", "active_at__day"}
DECLARED = {
    Session: {"state__exact", "trouble", "connected", "due", "runtime", "worker"} | DATES,
    Connection: {"status", "role", "session", "gateway"},
    Event: {"session", "source"},
    Process: {"kind__exact", "state__exact"},
    Transition: {"session", "to"},
}
"""All parameters that the lists accept, besides a search, an order and a page."""
LOOKUPS = (
    "", "__exact", "__iexact", "__contains", "__icontains", "__startswith", "__istartswith", "__regex",
    "__iregex", "__gt", "__lte", "__in", "__range", "__isnull", "__year", "__has_key", "__llm", "__length",
)  # fmt: skip
BEYOND = (
    "owner__password__startswith", "owner__email__icontains", "user__password__regex", "pk__startswith",
    "session__title__icontains", "session__snapshot__icontains", "session__secrets__startswith",
    "session__owner__password__startswith", "worker__host__regex", "gateway__birth__startswith",
    "connections__sid__startswith", "events__data__regex", "events__hidden_text__startswith",
    "transitions__by__regex", "sessions__snapshot__icontains", "excerpt__regex", "session_title__icontains",
    "attached_count__gt", "session_head", "length__gt",
)  # fmt: skip
"""Relations, in both directions, and computed columns of lists."""


@pytest.fixture
def demo(db: None) -> Demo:
    return fill(sessions=5, most_events=20)


def staff_with(*permissions: str) -> Any:
    """Return a member of staff with these permissions only."""
    users = get_user_model().objects
    users.filter(username="staff").delete()
    user = users.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def login(*permissions: str) -> Client:
    client = Client()
    client.force_login(staff_with(*permissions))
    return client


def list_url(model: Any) -> str:
    return reverse(f"admin:ohsessions_{model._meta.model_name}_changelist")


def page_url(row: Any, page: str = "change") -> str:
    return reverse(f"admin:ohsessions_{row._meta.model_name}_{page}", args=[row.pk])


def undeclared(model: Any) -> Iterator[str]:
    names = [
        name for field in model._meta.get_fields() for name in {field.name, getattr(field, "attname", "")}
    ]
    for name in filter(None, names):
        yield from (name + lookup for lookup in LOOKUPS if name + lookup not in DECLARED[model])
    yield from BEYOND


@pytest.mark.parametrize("model", DECLARED)
def test_list_takes_no_lookup_that_it_does_not_offer(demo: Demo, model: Any) -> None:
    """It calls the view, because there are 1,700 lookups; test_guesses_… requests some over HTTP."""
    request = RequestFactory().get(list_url(model))
    request.user = staff_with(f"view_{model._meta.model_name}")
    view = admin.site.get_model_admin(model).changelist_view
    for lookup in undeclared(model):
        request.GET = QueryDict(urlencode({lookup: "a"}))
        try:
            response = view(request)
        except SuspiciousOperation:  # Django answers it with 400
            continue
        assert response.status_code == 302, lookup
        assert response.headers["Location"].endswith("/?e=1"), lookup


@pytest.mark.parametrize("model", DECLARED)
def test_list_takes_each_lookup_that_it_offers(demo: Demo, model: Any) -> None:
    staff = login(f"view_{model._meta.model_name}")
    values = {"active_at__year": "2025", "active_at__month": "3", "active_at__day": "4"}
    for lookup in DECLARED[model]:
        assert staff.get(list_url(model), {lookup: values.get(lookup, "gone")}).status_code == 200, lookup


@pytest.mark.parametrize("column", ["init_key", "sid", "secrets", "snapshot"])
def test_no_page_is_reached_by_a_column_that_is_not_shown(demo: Demo, column: str) -> None:
    staff = login("view_session", "view_connection")
    for model in (Session, Connection):
        for url in (list_url(model), page_url(model.objects.first())):
            assert staff.get(url, {"_to_field": column}).status_code == 400


def test_guesses_at_what_is_hidden_all_have_the_same_answer(demo: Demo) -> None:
    staff = login("view_session", "view_connection", "view_event")
    Session.objects.filter(pk=demo.busy.pk).update(init_key="abcdef")
    sid = Connection.objects.values_list("sid", flat=True)[0]
    guesses = [
        (Session, "snapshot__icontains", SECRET),
        (Session, "settings__icontains", SECRET),
        (Session, "init_key__startswith", "abc"),
        (Session, "owner__password__startswith", "!"),
        (Connection, "sid__startswith", sid[:12]),
        (Event, "hidden_text__startswith", "gAAA"),
        (Event, "data__regex", "(a|aa)+X"),
    ]
    for model, lookup, right in guesses:
        for more in ({}, {"_popup": "1"}, {"_popup": "1", "_to_field": "id"}):
            assert staff.get(list_url(model), {lookup: right} | more).status_code == 400
            assert staff.get(list_url(model), {lookup: "wrong"} | more).status_code == 400


def test_search_tells_no_more_of_a_sid_than_its_page(demo: Demo) -> None:
    staff = login("view_connection")
    row = Connection.objects.all()[0]

    def found(term: str) -> list[Any]:
        return list(staff.get(list_url(Connection), {"q": term}).context["cl"].result_list)

    assert row in found(row.sid[:8])
    assert found(row.sid) == found(row.sid[:8] + "0123456789"), "what follows makes no difference"


@pytest.mark.parametrize("model", [Connection, Event, Transition])
def test_list_has_no_order_that_it_does_not_offer(demo: Demo, model: Any) -> None:
    staff = login(f"view_{model._meta.model_name}")

    def order(**query: str) -> list[Any]:
        return [row.pk for row in staff.get(list_url(model), query).context["cl"].result_list]

    columns = range(-1, 2 + len(admin.site.get_model_admin(model).list_display))
    whole = order()
    assert all(order(o=f"-{column}") == whole for column in columns)
    assert order(o="2.1") == whole


STRANGE = (
    "o=" + ".".join(["1"] * 3000), "p=" + "9" * 30, "runtime=%00", "state__exact=%00", "session=%00",
    "&".join(["state__exact=running"] * 900), "active_at__year=9999&active_at__month=12",
    "active_at__year=0", "active_at__year=2025&active_at__day=31", "active_at__month=2&active_at__day=31",
    "active_at__year=1&active_at__month=1&active_at__day=1", "q=%00", "q=" + "a%20" * 90,
    "q=" + "%25_" * 50, "q=%ED%A0%80", "q=" + "9" * 50, "_facets=True", "all=", "e=1&e=2",
)  # fmt: skip


def test_no_address_is_an_error_of_the_server(database: str) -> None:
    fill(sessions=3, most_events=5)
    staff = login(*(f"view_{model._meta.model_name}" for model in DECLARED))
    for model in DECLARED:
        for query in STRANGE:
            assert staff.get(f"{list_url(model)}?{query}", follow=True).status_code in (200, 400), query


def test_search_that_is_too_long_is_not_made_and_the_operator_is_told(demo: Demo) -> None:
    page = login("view_session").get(list_url(Session), {"q": "x" * (MOST_SEARCHED + 1)})
    assert f"at most {MOST_SEARCHED} characters" in page.content.decode()
    assert page.context["cl"].query == ""


ENDLESS = {
    "sqlite": "(WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c) > 0",
    "postgresql": "(SELECT count(*) FROM generate_series(1, 9000000000)) > 0",
}


def test_search_that_takes_the_database_too_long_is_given_up_and_the_operator_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sessions=3, most_events=5)
    staff = login("view_session")

    def search(self: Any, request: Any, rows: Any, term: str) -> Any:
        return rows.annotate(slow=RawSQL(ENDLESS[database], [])).filter(slow=True)

    with monkeypatch.context() as patched:
        patched.setattr(patience, "LIST_SECONDS", 0.2)
        patched.setattr(SessionAdmin, "search", search)
        page = staff.get(list_url(Session), {"q": "anything"})
    assert page.status_code == 200
    assert "so it was stopped" in page.content.decode()
    # The connection is as before, without a limit.
    assert staff.get(list_url(Session)).context["cl"].result_count == Session.objects.count()
    if database == "postgresql":
        with database_connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)


# Titles


TITLE = "A title for owners only"


def every_address(model: Any, session: Session) -> list[str]:
    row = model.objects.filter(session=session).first() if model is not Process else session.worker
    lists = [list_url(model), f"{list_url(model)}?session={session.pk}", f"{list_url(model)}?q={session.pk}"]
    return [
        *lists,
        f"{list_url(model)}?_popup=1",
        page_url(row),
        page_url(row, "history"),
        reverse("admin:index"),
    ]


@pytest.mark.parametrize("model", [Connection, Event, Process, Transition])
def test_titles_are_for_those_who_may_see_sessions(demo: Demo, model: Any) -> None:
    Session.objects.update(title=TITLE)
    view = f"view_{model._meta.model_name}"
    staff = login(view)
    for url in every_address(model, demo.busy):
        page = staff.get(url, follow=True)
        assert page.status_code == 200
        assert TITLE not in page.content.decode(), url
        assert f'href="{page_url(demo.busy)}"' not in page.content.decode(), url
    if model is Process:
        return
    assert str(demo.busy.pk) in staff.get(list_url(model), {"session": str(demo.busy.pk)}).content.decode()
    for right in ("view_session", "change_session"):
        assert TITLE[:20] in login(view, right).get(list_url(model)).content.decode()


def test_log_of_what_an_operator_did_has_no_title(demo: Demo) -> None:
    """The first page of the admin shows the log, also to users without permission to see sessions."""
    Session.objects.update(title=TITLE)
    staff = login("view_session", "change_session")
    staff.post(reverse("admin:ohsessions_session_wake"), {"session": str(demo.failed.pk)})
    user = get_user_model().objects.get(username="staff")
    user.user_permissions.set(Permission.objects.filter(codename="view_event"))
    page = staff.get(reverse("admin:index")).content.decode()
    assert str(demo.failed.pk) in page
    assert TITLE not in page


def test_sessions_are_steered_by_those_only_who_may_change_them(demo: Demo) -> None:
    others = [
        f"{verb}_{model._meta.model_name}" for model in DECLARED for verb in ("view", "change", "delete")
    ]
    others.remove("change_session")
    staff = login(*others)
    for operation, row in (("wake", demo.failed), ("passivate", demo.busy)):
        url = reverse(f"admin:ohsessions_session_{operation}")
        assert staff.get(url, {"session": str(row.pk)}).status_code == 403
        assert staff.post(url, {"session": str(row.pk)}).status_code == 403
        staff.post(list_url(Session), {"action": f"{operation}_now", "_selected_action": [str(row.pk)]})
        before = row.state
        row.refresh_from_db()
        assert (row.state, row.forced_by) == (before, "")
