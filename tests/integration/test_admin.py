"""The admin as an operator uses it: over HTTP, on a database filled by demo_data."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection as database
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, reverse
from django.utils import timezone

from ohsessions.admin import base, display, events, operations, overview
from ohsessions.admin.sessions import REDACTED
from ohsessions.core import wire
from ohsessions.core.secret_settings import mask_secrets
from ohsessions.models import Connection, Event, Process, Session, Transition
from tests.demo_data import SECRET, Demo, fill

urlpatterns = [path("admin/", admin.site.urls), path("api/", include("ohsessions.urls"))]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

TABLES = (Session, Connection, Event, Process, Transition)


@pytest.fixture
def demo(db: None) -> Demo:
    return fill(sessions=15, most_events=70)


@pytest.fixture
def operator(db: None) -> Client:
    """Return a logged-in client that may do everything, and that checks CSRF as a site does."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("op"))
    return client


def make_staff(*permissions: str) -> Client:
    user = get_user_model().objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def list_url(model: Any) -> str:
    return reverse(f"admin:ohsessions_{model._meta.model_name}_changelist")


def page_url(row: Any) -> str:
    return reverse(f"admin:ohsessions_{row._meta.model_name}_change", args=[row.pk])


def text_of(response: HttpResponse) -> str:
    """Return the page's text, with one space between words."""
    assert response.status_code == 200
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())


def listed(response: HttpResponse) -> list[Any]:
    assert response.status_code == 200
    rows: list[Any] = list(response.context["cl"].result_list)
    return rows


def every_page(demo: Demo) -> list[str]:
    """Return the URL of each list, and of one row of each table."""
    rows = [demo.busy, demo.workers[0], *(model.objects.filter(session=demo.busy).first() for model in
            (Connection, Event, Transition))]  # fmt: skip
    hidden = Event.objects.filter(hidden_text__isnull=False).first()
    urls = [*map(list_url, TABLES), *map(page_url, rows), page_url(hidden)]
    return [*urls, *map(page_url, (demo.overdue, demo.unowned, demo.failed, demo.asleep, demo.closed))]


# All pages


def test_no_page_shows_a_secret_or_a_whole_sid(operator: Client, demo: Demo) -> None:
    assert SECRET in str(demo.busy.settings)
    assert SECRET in str(demo.busy.snapshot)
    forbidden = [SECRET, demo.busy.secrets[:30], *Connection.objects.values_list("sid", flat=True)]
    forbidden += [
        text[:30] for text in Event.objects.exclude(hidden_text=None).values_list("hidden_text", flat=True)
    ]
    for url in every_page(demo):
        page = operator.get(url).content.decode()
        assert not [text for text in forbidden if text in page], url


def test_no_page_needs_inline_scripts_or_styles(operator: Client, demo: Demo) -> None:
    confirmations = [
        f"{passivate_url()}?session={demo.busy.pk}",
        f"{wake_url()}?session={demo.failed.pk}",
        f"{drain_url()}?process={demo.workers[0].pk}",
    ]
    for url in [*every_page(demo), *confirmations]:
        page = operator.get(url).content.decode()
        assert "ohsessions/admin/admin.css" in page, url
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page), url
        scripts = re.findall(r"<script[^>]*>", page)
        assert scripts
        assert all(" src=" in script or 'type="application/json"' in script for script in scripts), url


def test_what_users_wrote_is_text_and_not_markup(operator: Client, demo: Demo) -> None:
    Session.objects.update(title="<script>alert(1)</script>", reason="<b>reason</b>")
    Transition.objects.update(reason="<b>reason</b>", by="<b>who</b>")
    for url in every_page(demo):
        page = operator.get(url).content.decode()
        assert "<script>alert(1)" not in page, url
        assert "<b>" not in re.sub(r"<b>\d+</b>|<b>[A-Z][a-z]+</b>", "", page), url


@pytest.mark.parametrize("model", TABLES)
def test_nobody_adds_changes_or_deletes_rows(operator: Client, demo: Demo, model: Any) -> None:
    row = demo.busy if model is Session else model.objects.first()
    before = model.objects.values().get(pk=row.pk)
    name = f"admin:ohsessions_{model._meta.model_name}"
    assert operator.get(reverse(f"{name}_add")).status_code == 403
    assert operator.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert operator.post(page_url(row), {"title": "x", "state": "closed"}).status_code == 403
    delete = {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"}
    operator.post(list_url(model), delete)
    assert model.objects.values().get(pk=row.pk) == before


@pytest.mark.parametrize("model", TABLES)
def test_lists_and_pages_need_the_view_permission(demo: Demo, model: Any) -> None:
    name = model._meta.model_name
    others = [f"view_{other._meta.model_name}" for other in TABLES if other is not model]
    assert make_staff(*others).get(list_url(model)).status_code == 403
    get_user_model().objects.get(username="staff").delete()
    assert make_staff(f"view_{name}").get(list_url(model)).status_code == 200


@pytest.mark.parametrize("model", TABLES)
def test_list_takes_as_many_queries_for_many_rows_as_for_few(operator: Client, model: Any) -> None:
    def count_queries(rows: int) -> int:
        with CaptureQueriesContext(database) as captured:
            response = operator.get(list_url(model))
        assert len(listed(response)) == rows
        return len(captured)

    owners = [get_user_model().objects.create_user(name) for name in ("ann", "bob")]
    add_rows(owners, 3)
    few = count_queries(3)
    add_rows(owners, 197)
    assert count_queries(100) == few  # the first page


def add_rows(owners: list[Any], count: int) -> None:
    """Add `count` rows to each table, with various related rows, so that a query for each row would show."""
    now = timezone.now()
    times = {"created_at": now, "state_at": now, "active_at": now}
    for number in range(count):
        process = Process.objects.create(
            kind="worker", host="h", pid=number, birth="b", version="1", started_at=now, seen_at=now
        )
        session = Session.objects.create(owner=owners[number % 2], worker=process, state="running", **times)
        Connection.objects.create(
            sid=uuid4().hex, session=session, gateway=process, user=session.owner, connected_at=now
        )
        Event.objects.create(session=session, number=0, data='{"id":0}', write_key="k", created_at=now)
        Transition.objects.create(session=session, target="starting", epoch=1, at=now)


@pytest.mark.parametrize(
    "query", ["?session=x", "?worker=x", "?gateway=x", "?status=x", "?due=x", "?trouble=x", "?q=x"]
)
@pytest.mark.parametrize("model", TABLES)
def test_mistyped_filters_break_nothing(operator: Client, demo: Demo, model: Any, query: str) -> None:
    response = operator.get(list_url(model) + query, follow=True)
    assert response.status_code == 200


# Sessions


def test_session_list_has_what_an_operator_asks_for(operator: Client, demo: Demo) -> None:
    response = operator.get(list_url(Session), {"q": str(demo.busy.pk)})
    assert [row.pk for row in listed(response)] == [demo.busy.pk]
    page, text = response.content.decode(), text_of(response)
    assert "Fix the flaky checkout test" in text
    assert "running its runtime is ready shell ann" in text
    assert f'<a href="{list_url(Connection)}?session={demo.busy.pk}&amp;status=attached">2</a>' in page
    worker = demo.busy.worker
    assert (
        f'<a href="{page_url(worker)}">agents-1:4021</a> <code title="{worker.pk}">{str(worker.pk)[:8]}<'
        in page
    )
    assert f'<a href="{list_url(Event)}?session={demo.busy.pk}">70</a>' in page
    assert re.search(r'<time [^>]*title="\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} UTC">\d+ s ago</time>', page)


def test_session_list_counts_states_and_marks_what_is_wrong(operator: Client, demo: Demo) -> None:
    text = text_of(operator.get(list_url(Session)))
    awake = Session.objects.filter(state="running").count()
    assert f"{awake} running" in text
    assert "now, since 4 min" in text  # the overdue one
    assert re.search(r"3 retry in \d+ s", text)  # the failed one
    assert "It is awake, and no worker owns it." in operator.get(list_url(Session)).content.decode()


@pytest.mark.parametrize(
    "spelling", [str, lambda key: key.hex, lambda key: str(key).upper(), lambda key: f" {key} "]
)
def test_session_is_found_by_its_id_in_any_spelling(operator: Client, demo: Demo, spelling: Any) -> None:
    assert listed(operator.get(list_url(Session), {"q": spelling(demo.asleep.pk)})) == [demo.asleep]


def test_session_is_found_by_title_owner_and_a_part_of_its_id(operator: Client, demo: Demo) -> None:
    assert demo.failed in listed(operator.get(list_url(Session), {"q": "release notes"}))
    assert demo.busy in listed(operator.get(list_url(Session), {"q": "ann"}))
    assert listed(operator.get(list_url(Session), {"q": str(demo.failed.pk)[:8]})) == [demo.failed]


def test_session_filters_find_exactly_what_they_say(operator: Client, demo: Demo) -> None:
    def found(**query: str) -> set[Any]:
        return {row.pk for row in listed(operator.get(list_url(Session), query))}

    def expected(**conditions: Any) -> set[Any]:
        return set(Session.objects.filter(**conditions).values_list("pk", flat=True))

    everything, now = expected(), timezone.now()
    connected = set(Connection.objects.attached().values_list("session", flat=True))
    assert found(connected="yes") == connected
    assert found(connected="no") == everything - connected
    assert found(due="now") == {demo.overdue.pk} | expected(passivate_at__lte=now)
    assert found(due="no") == expected(passivate_at=None)
    assert found(due="later") | found(due="now") == everything - found(due="no")
    assert demo.unowned.pk in found(trouble="unowned")
    assert found(trouble="pending") == {demo.busy.pk, demo.unowned.pk}
    assert found(trouble="crashes") == expected(crashes__gt=0)
    assert found(worker=str(demo.workers[0].pk)) == expected(worker=demo.workers[0])
    assert found(worker="none") == expected(worker=None)
    assert found(state__exact="failed") == expected(state="failed")
    assert found(runtime="echo") == expected(runtime="echo")
    assert found(worker="nonsense") == set()


def test_session_page_says_why_it_is_awake_and_links_to_everything(operator: Client, demo: Demo) -> None:
    response = operator.get(page_url(demo.busy))
    page, text = response.content.decode(), text_of(response)
    assert "It is awake because 2 connections are attached." in text
    assert "#69 is being handled. The last one is #69, handled up to #66. keeps it awake" in text
    for url in (
        page_url(demo.workers[0]),
        f"{list_url(Event)}?session={demo.busy.pk}",
        f"{list_url(Connection)}?session={demo.busy.pk}",
        f"{list_url(Transition)}?session={demo.busy.pk}",
        f"/s/{demo.busy.pk}",
        f"{reverse('admin:ohsessions_session_passivate')}?session={demo.busy.pk}",
        *(page_url(row) for row in demo.busy.connections.all()),
    ):
        assert f'href="{url}"' in page, url
    assert [row.number for row in response.context["events"]] == list(range(69, 19, -1))
    assert list(response.context["transitions"]) == list(demo.busy.transitions.all()[:50])
    attached = [row.ended_at is None for row in response.context["connections"]]
    assert attached == sorted(attached, reverse=True)


def test_session_page_shows_only_tables_that_the_user_may_see(demo: Demo) -> None:
    page = make_staff("view_session").get(page_url(demo.busy))
    assert "Running command" not in text_of(page)
    assert not {"events", "connections", "transitions"} & page.context.keys()
    assert "Passivate now" not in text_of(page)


def test_session_page_reads_little_of_large_events(operator: Client, demo: Demo) -> None:
    Event.objects.filter(session=demo.busy).update(data=json.dumps({"id": 1, "content": "x" * 50_000}))
    assert len(operator.get(page_url(demo.busy)).content) < 100_000


# Sentences of the overview, as pure functions


@pytest.mark.parametrize(("suspicion", "found"), [(0, []), (2, [False]), (8, [True])])
def test_overview_tells_of_workers_that_died_and_warns_when_it_may_be_the_cause(
    suspicion: int, found: list[bool]
) -> None:
    facts = overview.facts(make_awake(suspicion=suspicion), 1, timezone.now())
    assert [fact.is_warning for fact in facts if fact.name == "Dead workers"] == found


def make_awake(**values: Any) -> Session:
    worker = Process(host="h", pid=1, state="active")
    return Session(**{"state": "running", "worker": worker, **values})


def test_overview_names_the_one_thing_that_keeps_a_session_awake() -> None:
    now = timezone.now()
    later, past = now + timedelta(seconds=12), now - timedelta(minutes=5)
    assert "1 connection is attached" in overview.summary(make_awake(), 1, now)
    assert "an action is pending" in overview.summary(make_awake(last_action_number=3), 0, now)
    assert "passivated in 12 s" in overview.summary(make_awake(passivate_at=later), 0, now)
    assert "says that it is busy" in overview.summary(make_awake(passivate_at=past), 0, now)
    assert "no worker has taken it" in overview.summary(make_awake(passivate_at=past, worker=None), 0, now)
    assert "CLOSE_DELAY is None" in overview.summary(make_awake(), 0, now)
    assert "operator's wish" in overview.summary(make_awake(forced_by="operator op"), 0, now)


def test_overdue_session_that_nothing_holds_is_held_by_its_runtime() -> None:
    now = timezone.now()
    overdue = make_awake(passivate_at=now - timedelta(minutes=5))
    assert [fact.name for fact in overview.facts(overdue, 0, now) if fact.holds] == ["Busy"]
    assert [fact.name for fact in overview.facts(overdue, 1, now) if fact.holds] == ["Connections"]
    punctual = make_awake(passivate_at=now - timedelta(seconds=1))
    assert not [fact.name for fact in overview.facts(punctual, 0, now) if fact.holds or fact.is_warning]


# Passivate now


def passivate_url() -> str:
    return reverse("admin:ohsessions_session_passivate")


def wake_url() -> str:
    return reverse("admin:ohsessions_session_wake")


def drain_url() -> str:
    return reverse("admin:ohsessions_process_drain")


def test_confirmation_says_what_happens_to_connections_and_actions(operator: Client, demo: Demo) -> None:
    before = list(Session.objects.order_by("pk").values())
    text = text_of(operator.get(passivate_url(), {"session": [demo.busy.pk, demo.closed.pk]}))
    assert "2 connections are attached now. They are closed, with a notice that an operator did so." in text
    assert (
        "Its 2 connections get a notice and are closed. The next client that attaches wakes the session."
        in text
    )
    assert "Action #69 is cut off." in text
    assert "Nothing happens: its state is closed." in text
    assert list(Session.objects.order_by("pk").values()) == before


def test_action_asks_first_and_then_passivates_what_was_selected(operator: Client, demo: Demo) -> None:
    data = {"action": "passivate_now", "_selected_action": [str(demo.busy.pk), str(demo.overdue.pk)]}
    asked = operator.post(list_url(Session), data)
    assert "Passivate 2 sessions now" in asked.content.decode()
    demo.busy.refresh_from_db()
    assert demo.busy.forced_by == ""
    named = re.findall(r'name="session" value="([^"]+)"', asked.content.decode())
    done = operator.post(passivate_url(), {"session": named}, follow=True)
    assert done.redirect_chain == [(list_url(Session), 302)]
    assert "2 sessions: Its worker passivates the session now." in text_of(done)
    for session in (demo.busy, demo.overdue):
        session.refresh_from_db()
        assert session.forced_by == "operator op"
        assert not session.connections.attached().exists()


def test_button_of_one_session_leads_back_to_it_with_the_outcome(operator: Client, demo: Demo) -> None:
    done = operator.post(passivate_url(), {"session": str(demo.unowned.pk)}, follow=True)
    assert done.redirect_chain == [(page_url(demo.unowned), 302)]
    assert "passivated before it had started" in text_of(done)
    assert demo.unowned.transitions.first().by == "operator op"


def test_session_that_is_gone_is_told_and_the_others_are_passivated(operator: Client, demo: Demo) -> None:
    text = text_of(operator.post(passivate_url(), {"session": [uuid4(), demo.overdue.pk]}, follow=True))
    assert "There is no such session" in text
    assert "Its worker passivates the session now." in text


@pytest.mark.parametrize("session", [[], ["x"], [str(uuid4())]])
def test_confirmation_for_nothing_leads_back_to_the_list(operator: Client, session: list[str]) -> None:
    response = operator.get(passivate_url(), {"session": session}, follow=True)
    assert response.redirect_chain == [(list_url(Session), 302)]
    assert "There is no such session." in text_of(response)


def test_too_many_at_a_time_are_refused(
    operator: Client, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MOST", 3)
    data = {"action": "passivate_now", "_selected_action": [str(row.pk) for row in demo.sessions]}
    assert "Select at most 3 sessions" in text_of(operator.post(list_url(Session), data, follow=True))


def test_passivating_needs_the_change_permission_and_csrf(operator: Client, demo: Demo) -> None:
    viewer = make_staff("view_session")
    assert viewer.get(passivate_url(), {"session": demo.busy.pk}).status_code == 403
    assert viewer.post(passivate_url(), {"session": demo.busy.pk}).status_code == 403
    assert "passivate_now" not in viewer.get(list_url(Session)).content.decode()
    data = {"action": "passivate_now", "_selected_action": [str(demo.busy.pk)]}
    assert "get a notice" not in viewer.post(list_url(Session), data, follow=True).content.decode()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.get(username="op"))
    assert strict.post(passivate_url(), {"session": demo.busy.pk}).status_code == 403
    demo.busy.refresh_from_db()
    assert demo.busy.forced_by == ""
    steerer = make_staff_of("view_session", "change_session")
    assert "/passivate/" in steerer.get(page_url(demo.busy)).content.decode()


def revoke_url() -> str:
    return reverse("admin:ohsessions_session_revoke-links")


def test_revoking_links_needs_a_permission_of_its_own_and_csrf(operator: Client, demo: Demo) -> None:
    steerer = make_staff("view_session", "change_session")
    assert steerer.post(revoke_url(), {"session": demo.busy.pk}).status_code == 403
    assert "/revoke-links/" not in steerer.get(page_url(demo.busy)).content.decode()
    assert "revoke_links_now" not in steerer.get(list_url(Session)).content.decode()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(get_user_model().objects.get(username="op"))
    assert strict.post(revoke_url(), {"session": demo.busy.pk}).status_code == 403
    before = demo.busy.token_version
    revoker = make_staff_of("view_session", "revoke_links")
    assert "/revoke-links/" in revoker.get(page_url(demo.busy)).content.decode()
    assert "/passivate/" not in revoker.get(page_url(demo.busy)).content.decode()
    demo.busy.refresh_from_db()
    assert demo.busy.token_version == before


def test_revoking_links_tells_what_it_means_does_it_and_is_in_the_history(
    operator: Client, demo: Demo
) -> None:
    count = Connection.objects.attached().filter(session=demo.busy).count()
    assert count
    asked = text_of(operator.get(revoke_url(), {"session": str(demo.busy.pk)}))
    assert f"Its {count} connections get a notice and are" in asked or "Its connection gets a" in asked
    before = demo.busy.token_version
    told = text_of(operator.post(revoke_url(), {"session": str(demo.busy.pk)}, follow=True))
    assert "All its links and tokens are invalid" in told
    demo.busy.refresh_from_db()
    assert demo.busy.token_version == before + 1
    assert not Connection.objects.attached().filter(session=demo.busy).exists()
    page = operator.get(page_url(demo.busy)).content.decode()
    (history,) = re.findall(r'href="([^"]+/history/)"', page)
    assert "Revoke links now:" in text_of(operator.get(history))


def make_staff_of(*permissions: str) -> Client:
    get_user_model().objects.filter(username="staff").delete()
    return make_staff(*permissions)


# Wake now


def test_confirmation_of_a_wake_says_what_is_forgotten_and_that_nobody_is_there(
    operator: Client, demo: Demo
) -> None:
    before = list(Session.objects.order_by("pk").values())
    sessions = [demo.failed.pk, demo.asleep.pk, demo.busy.pk]
    response = operator.get(wake_url(), {"session": sessions})
    text = text_of(response)
    assert "It crashed 3 times in a row; that is forgotten." in text
    assert "No client is attached. Unless one attaches, the session is passivated after 15 s." in text
    assert 'value="Wake 2 sessions now"' in response.content.decode()
    assert "Nothing happens: its state is running." in text
    assert list(Session.objects.order_by("pk").values()) == before


def test_wake_starts_what_failed_and_what_sleeps_and_nothing_else(operator: Client, demo: Demo) -> None:
    data = {"action": "wake_now", "_selected_action": [str(demo.failed.pk), str(demo.closed.pk)]}
    asked = operator.post(list_url(Session), data).content.decode()
    named = re.findall(r'name="session" value="([^"]+)"', asked)
    text = text_of(operator.post(wake_url(), {"session": named}, follow=True))
    assert "Nothing to do: the session is closed." in text
    assert "Unless a client attaches, it is passivated after 15 s." in text
    demo.failed.refresh_from_db()
    assert (demo.failed.state, demo.failed.crashes, demo.failed.retry_at) == ("starting", 0, None)
    assert demo.failed.transitions.first().by == "operator op"


@pytest.mark.parametrize("what", ["session", "process"])
def test_what_an_operator_did_is_in_the_rows_history(operator: Client, demo: Demo, what: str) -> None:
    if what == "session":
        row, url, said = demo.asleep, wake_url(), "Wake now: The session starts"
    else:
        row = Process.objects.filter(state="active").first()
        assert row is not None
        url, said = drain_url(), "Drain now: The process drains"
    operator.post(url, {what: str(row.pk)})
    page = operator.get(page_url(row)).content.decode()
    (history,) = re.findall(r'href="([^"]+/history/)"', page)
    text = text_of(operator.get(history))
    assert said in text
    assert "op" in text


def test_session_page_offers_what_can_be_done_to_it(operator: Client, demo: Demo) -> None:
    def offered(session: Session) -> list[str]:
        page = operator.get(page_url(session)).content.decode()
        return re.findall(r'href="[^"]*/(passivate|wake)/\?session=' + str(session.pk), page)

    sessions = (demo.busy, demo.unowned, demo.asleep, demo.failed, demo.closed)
    expected = [["passivate"], ["passivate"], ["wake"], ["wake"], []]
    assert [offered(session) for session in sessions] == expected


# Drain now


def test_confirmation_of_a_drain_says_what_each_process_hands_over(operator: Client, demo: Demo) -> None:
    worker, gateway = demo.workers[0], demo.gateways[0]
    text = text_of(operator.get(drain_url(), {"process": [worker.pk, gateway.pk]}))
    owned = Session.objects.filter(worker=worker).count()
    served = Connection.objects.attached().filter(gateway=gateway).count()
    assert f"It owns {owned} sessions, and waits up to 30 s for their current actions." in text
    assert f"{served} clients are asked to connect to another gateway" in text
    assert "No other" not in text, "one of each stays"


def test_drain_begins_after_the_confirmation(operator: Client, demo: Demo) -> None:
    worker = demo.workers[0]
    data = {"action": "drain_now", "_selected_action": [str(worker.pk)]}
    asked = operator.post(list_url(Process), data).content.decode()
    worker.refresh_from_db()
    assert worker.state == "active"
    (named,) = re.findall(r'name="process" value="([^"]+)"', asked)
    done = operator.post(drain_url(), {"process": named}, follow=True)
    assert done.redirect_chain == [(page_url(worker), 302)]
    assert "The process drains" in text_of(done)
    states = dict(Process.objects.values_list("pk", "state"))
    assert [states[row.pk] for row in demo.workers] == ["draining", "active", "draining", "gone"]


@pytest.mark.parametrize(("place", "state"), [(2, "draining"), (3, "gone")])
def test_draining_what_drains_or_is_gone_does_nothing_and_says_so(
    operator: Client, demo: Demo, place: int, state: str
) -> None:
    process = demo.workers[place]
    page = operator.get(page_url(process)).content.decode()
    assert "/drain/" not in page
    asked = operator.get(drain_url(), {"process": process.pk})
    assert f"Nothing happens: its state is {state}." in text_of(asked)
    assert 'type="submit" class="default"' not in asked.content.decode()
    text = text_of(operator.post(drain_url(), {"process": process.pk}, follow=True))
    assert f"Nothing to do: the process is {state}." in text
    process.refresh_from_db()
    assert process.state == state


def test_drain_of_the_last_of_a_kind_is_warned_of(operator: Client, demo: Demo) -> None:
    Process.objects.filter(pk=demo.gateways[1].pk).update(state="gone")
    text = text_of(operator.get(drain_url(), {"process": [row.pk for row in demo.workers]}))
    assert "No other worker is active: sessions with clients wait until you start one." in text
    assert "No other gateway" not in text
    text = text_of(operator.get(drain_url(), {"process": demo.gateways[0].pk}))
    assert "No other gateway is active: no client can connect until you start one." in text
    assert "No other worker" not in text


def test_drain_of_an_embedded_process_says_what_ends_with_it(operator: Client, demo: Demo) -> None:
    worker, gateway = demo.workers[0], demo.gateways[0]
    same = {"host": worker.host, "pid": worker.pid, "birth": worker.birth}
    other = demo.workers[1]
    Process.objects.filter(pk=other.pk).update(host=worker.host, pid=worker.pid)
    Process.objects.filter(pk=gateway.pk).update(**same)
    Process.objects.filter(pk=demo.gateways[1].pk).update(state="gone")
    text = text_of(operator.get(drain_url(), {"process": worker.pk}))
    name = f"agents-1:4021 ({str(gateway.pk)[:8]})"
    assert f"The gateway {name} is the same process, and ends with it." in text
    assert text.count("is the same process") == 1, "the other one is in another container"
    assert "No other gateway is active" in text
    assert "No other worker is active" not in text


def test_draining_needs_the_change_permission(demo: Demo) -> None:
    process = demo.workers[0]
    viewer = make_staff("view_process", "change_session")
    assert viewer.get(drain_url(), {"process": process.pk}).status_code == 403
    assert viewer.post(drain_url(), {"process": process.pk}).status_code == 403
    assert "/drain/" not in viewer.get(page_url(process)).content.decode()
    process.refresh_from_db()
    assert process.state == "active"
    drainer = make_staff_of("view_process", "change_process")
    assert "/drain/" in drainer.get(page_url(process)).content.decode()
    assert drainer.post(drain_url(), {"process": process.pk}).status_code == 302
    process.refresh_from_db()
    assert process.state == "draining"


def test_processes_of_one_address_can_be_told_apart(operator: Client, demo: Demo) -> None:
    Process.objects.update(host="container", pid=1)
    short = [str(row.pk)[:8] for row in demo.workers[:2]]
    processes = operator.get(list_url(Process)).content.decode()
    sessions = operator.get(list_url(Session)).content.decode()
    for key in short:
        assert f">{key}</code>" in processes
        assert f">{key}</code>" in sessions
        assert f"worker container:1 ({key})" in text_of(operator.get(list_url(Session))), "a filter"


# Events


def test_event_list_counts_no_more_than_its_bound(
    operator: Client, demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MOST_COUNTED", 150)
    with CaptureQueriesContext(database) as captured:
        response = operator.get(list_url(Event))
    assert Event.objects.count() > 151
    assert response.context["cl"].result_count == 150
    assert "150+ events" in text_of(response)
    counts = [query["sql"] for query in captured if "COUNT(" in query["sql"]]
    assert counts
    assert all("LIMIT 151" in sql for sql in counts)
    assert operator.get(list_url(Event), {"p": 2}).context["cl"].result_list


def test_event_list_shows_the_newest_first_and_reads_a_piece_of_each(operator: Client, demo: Demo) -> None:
    Event.objects.filter(session=demo.busy).update(data=json.dumps({"content": "x" * 5000 + "the end"}))
    with CaptureQueriesContext(database) as captured:
        response = operator.get(list_url(Event), {"session": str(demo.busy.pk)})
    assert [row.number for row in listed(response)] == list(range(69, -1, -1))
    asked = "".join(query["sql"] for query in captured)
    assert "hidden_text" not in asked
    assert '"data"' not in re.sub(r'(SUBSTR|LEFT|LENGTH)\("ohsessions_event"."data"', "", asked)
    assert not re.search("COUNT.*(SUBSTR|LEFT)", asked.partition("LIMIT")[0])
    assert "x" * 100 in response.content.decode()
    assert "x" * 200 not in response.content.decode()


def test_events_are_found_by_session_kind_and_within_a_session_by_text(operator: Client, demo: Demo) -> None:
    def found(**query: str) -> list[Any]:
        return listed(operator.get(list_url(Event), query))

    assert {row.session_id for row in found(q=str(demo.overdue.pk))} == {demo.overdue.pk}
    assert {row.kind for row in found(q="agent_state_changed")} == {"agent_state_changed"}
    assert found(q="passed in 3.21s") == []
    assert {row.kind for row in found(q="passed in 3.21s", session=str(demo.busy.pk))} == {"run"}
    assert {row.source for row in found(source="agent")} == {"agent"}


def test_event_page_prints_its_json_and_leads_to_its_neighbours(operator: Client, demo: Demo) -> None:
    before, event, after = demo.busy.events.filter(number__in=(6, 7, 8)).order_by("number")
    response = operator.get(page_url(event))
    assert "&quot;observation&quot;: &quot;run&quot;,\n  &quot;content&quot;" in response.content.decode()
    assert f'href="{page_url(before)}"' in response.content.decode()
    assert f'href="{page_url(after)}"' in response.content.decode()
    assert f'href="{page_url(demo.busy)}"' in response.content.decode()
    assert "never shown" in text_of(operator.get(page_url(before)))  # the page hides its arguments


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"id":1,"timestamp":"t","message":"m","content":"two\\nlines"}', "two lines"),
        ('{"id":1,"timestamp":"t","message":"m","args":{"a":1}}', "m"),
        ('{"id":1,"timestamp":"t","message":"","extras":{"agent_state":"init"}}', '{"agent_state": "init"}'),
        ('{"id":1,"timestamp":"t","content":"cut o', '{"content":"cut o'),
        ("no JSON", "no JSON"),
        ("[1, 2]", "[1, 2]"),
        ("", ""),
    ],
)
def test_gist_is_what_an_event_says(data: str, said: str) -> None:
    assert events.gist(data) == said


def test_huge_event_is_printed_cut() -> None:
    printed = events.pretty(wire.encode({"content": "x" * 1_000_000}))
    assert len(printed) <= events.MOST_PRINTED
    assert printed.endswith("characters in all")


# Small things


def test_times_read_at_a_glance() -> None:
    now = timezone.now()
    ages = {
        0.4: "now",
        59.9: "59 s ago",
        60: "1 min ago",
        7199: "1 h ago",
        -12.5: "in 12 s",
        172_800: "2 d ago",
    }
    assert {age: display.relative(now - timedelta(seconds=age), now) for age in ages} == ages


def test_settings_lose_whatever_looks_secret_at_any_depth() -> None:
    settings = {
        "model": "m",
        "LLM_API_KEY": "s",
        "nested": [{"Password": "s", "auth": {"user": "s"}, "depth": 2}],
        "url": "postgres://ann:s@db/x and https://plain.example/a@b",
        "token": "",
        "use_token": True,
    }
    assert mask_secrets(settings, REDACTED) == {
        "model": "m",
        "LLM_API_KEY": REDACTED,
        "nested": [{"Password": REDACTED, "auth": REDACTED, "depth": 2}],
        "url": f"postgres://{REDACTED}@db/x and https://plain.example/a@b",
        "token": "",
        "use_token": True,
    }


def test_process_list_tells_who_is_late_and_what_each_holds(operator: Client, demo: Demo) -> None:
    response = operator.get(list_url(Process))
    page = response.content.decode()
    late = demo.gateways[1]
    assert re.search(rf'class="oh-warning" datetime="{late.seen_at:%Y-%m-%dT%H:%M:%S}', page)
    assert page.count('<time class="oh-warning"') == 1
    worker = demo.workers[0]
    owned = Session.objects.filter(worker=worker).count()
    assert f'<a href="{list_url(Session)}?worker={worker.pk}">{owned}</a>' in page
    served = Connection.objects.attached().filter(gateway=late).count()
    assert f'<a href="{list_url(Connection)}?gateway={late.pk}&amp;status=attached">{served}</a>' in page


def test_connections_are_narrowed_to_a_gateway_and_to_the_attached(operator: Client, demo: Demo) -> None:
    gateway = demo.gateways[0]
    response = operator.get(list_url(Connection), {"gateway": str(gateway.pk), "status": "attached"})
    expected = Connection.objects.attached().filter(gateway=gateway)
    assert set(listed(response)) == set(expected)
    assert "Gateway: gateway web-1.example.net:812" in text_of(response)


def test_transitions_link_to_the_worker_that_made_them(operator: Client, demo: Demo) -> None:
    response = operator.get(list_url(Transition), {"session": str(demo.busy.pk)})
    assert set(listed(response)) == set(demo.busy.transitions.all())
    worker = demo.busy.worker
    assert (
        f'<a href="{page_url(worker)}" title="{worker.pk}">{str(worker.pk)[:8]}</a>'
        in response.content.decode()
    )
