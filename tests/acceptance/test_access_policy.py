"""A site's ACCESS_POLICY decides about every request. The rules are those of policies.House."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.acceptance.operators import Operator
from tests.acceptance.people import Person, make_user
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site

Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    site = make_shared_site(ACCESS_POLICY="tests.acceptance.policies.House", CLOSE_DELAY=30)
    for name in ("ann", "bob", "auditor"):
        make_user(site, name)
    return site


async def begin(connect_raw: Connect, site: Site, title: str = "") -> tuple[RawClient, str, str]:
    """Return a client without a login, and the id and token of its new session with this title."""
    owner = await connect_raw(site)
    answer = await owner.act("initialize", {"runtime": "echo"})
    assert answer["status"] == "ok", answer
    retitle(site, answer["session_id"], title)
    return owner, answer["session_id"], answer["token"]


def retitle(site: Site, session_id: str, title: str) -> None:
    key = session_id.replace("-", "")
    site.execute("UPDATE ohsessions_session SET title = ? WHERE id = ?", title, key)


def refusal(answer: dict[str, Any]) -> tuple[int, str]:
    return answer["error_code"], answer["reason"]


def refused(person: Person, *asked: Any, token: str | None = None) -> tuple[int, str]:
    answer = person.ask(*asked, token=token)
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["error"]["reason"]


async def test_start_is_asked_with_runtime_and_settings(site: Site, connect_raw: Connect) -> None:
    stranger = await connect_raw(site)
    ann = await connect_raw(site, headers=Person(site, "ann").headers)
    for args in ({"runtime": "shell"}, {"runtime": "echo", "LANGUAGE": "xx"}):
        assert refusal(await stranger.act("initialize", args)) == (401, "login_required")
        assert refusal(await ann.act("initialize", args)) == (403, "role")
    assert (await ann.act("initialize", {"runtime": "echo"}))["status"] == "ok"


async def test_join_is_asked_also_with_a_token_and_over_http(site: Site, connect_raw: Connect) -> None:
    _, session_id, owner = await begin(connect_raw, site)
    link = Person(site).share(session_id, "editor", owner)
    stranger, ann = Person(site), Person(site, "ann")
    client = await connect_raw(site)
    assert refusal(await client.act("initialize", token=link)) == (401, "login_required")
    assert refused(stranger, "GET", f"{session_id}/", token=link) == (401, "login_required")
    client = await connect_raw(site, headers=ann.headers)
    assert (await client.act("initialize", token=link))["session_id"] == session_id
    assert ann.ask("GET", f"{session_id}/", token=link).json()["role"] == "editor"
    retitle(site, session_id, "hidden")
    client = await connect_raw(site, headers=ann.headers)
    assert refusal(await client.act("initialize", token=link)) == (403, "role")
    assert refused(ann, "GET", f"{session_id}/", token=link) == (403, "role")


async def test_a_role_without_a_token_is_the_policys_to_give(site: Site, connect_raw: Connect) -> None:
    _, session_id, _ = await begin(connect_raw, site)
    auth = {"conversation_id": session_id}
    auditor = await connect_raw(site, headers=Person(site, "auditor").headers, auth=auth)
    assert auditor.got("oh_event")[0]["role"] == "viewer"
    bob = await connect_raw(site, headers=Person(site, "bob").headers, auth=auth)
    assert bob.refused is not None
    assert bob.refused["data"] == {"error_code": 404, "reason": "unknown_session"}


async def test_each_action_is_asked_and_a_policy_that_raises_refuses_and_tells_nothing(
    site: Site, connect_raw: Connect
) -> None:
    owner, session_id, _ = await begin(connect_raw, site)
    assert (await owner.act("message", {"content": "hi"}))["status"] == "ok"
    assert refusal(await owner.act("run", {"command": "ls"})) == (403, "role")
    for action in ("explode", "query"):
        answer = await owner.act(action)
        assert refusal(answer) == (500, "internal")
        assert "hunter2" not in answer["message"]
    key = session_id.replace("-", "")
    kinds = site.query("SELECT kind FROM ohsessions_event WHERE session_id = ? AND source = 'user'", key)
    assert kinds == [("message",)]


async def test_close_rename_and_share_are_asked(site: Site, connect_raw: Connect) -> None:
    owner_socket, session_id, owner = await begin(connect_raw, site)
    ann = Person(site, "ann")
    assert refusal(await owner_socket.act("close")) == (403, "role")
    editor = ann.share(session_id, "editor", owner)
    assert ann.share(session_id, "viewer", editor)
    assert refused(ann, "PATCH", f"{session_id}/", {"title": "x"}, token=editor) == (403, "role")
    retitle(site, session_id, "private")
    body = {"role": "viewer"}
    for token in (owner, editor):
        assert refused(ann, "POST", f"{session_id}/share/", body, token=token) == (403, "role")
        assert refused(ann, "GET", f"{session_id}/links/", token=token) == (403, "role")
        assert refused(ann, "DELETE", f"{session_id}/links/", token=token) == (403, "role")
    retitle(site, session_id, "done")
    assert (await owner_socket.act("close"))["status"] == "ok"


async def test_the_list_of_sessions_is_the_policys(site: Site, connect_raw: Connect) -> None:
    _, shown, _ = await begin(connect_raw, site, "shown")
    _, hidden, _ = await begin(connect_raw, site, "hidden")
    listed = {one["id"] for one in Person(site, "bob").ask("GET", "").json()["sessions"]}
    assert shown in listed
    assert hidden not in listed


async def test_the_admin_shows_and_does_what_the_policy_lets_it(site: Site, connect_raw: Connect) -> None:
    guest, shown, _ = await begin(connect_raw, site, "shown")
    await guest.act("message", {"content": "in the shown one"})
    other, hidden, _ = await begin(connect_raw, site, "hidden")
    await other.act("message", {"content": "in the hidden one"})
    operator = Operator(site)
    http = operator.http
    for table in ("session", "event", "connection", "transition"):
        page = http.get(f"{site.url}/admin/ohsessions/{table}/", timeout=20).text
        assert hidden[:8] not in page, table
        assert "the hidden one" not in page
        assert shown[:8] in page, table
    page = http.get(f"{site.url}/admin/ohsessions/session/{hidden}/change/", timeout=20)
    assert "/change/" not in page.url
    page = http.get(f"{site.url}/admin/ohsessions/session/{shown}/change/", timeout=20)
    assert "revoke-links/?session=" in page.text
    assert "passivate/?session=" not in page.text
    for verb, told in (
        ("passivate", "policy does not let you"),
        ("revoke-links", "links and tokens are invalid"),
    ):
        form = {"session": shown, "csrfmiddlewaretoken": http.cookies["csrftoken"]}
        answer = http.post(f"{site.url}/admin/ohsessions/session/{verb}/", data=form, timeout=20)
        assert told in answer.text
    form = {"session": hidden, "csrfmiddlewaretoken": http.cookies["csrftoken"]}
    answer = http.post(f"{site.url}/admin/ohsessions/session/revoke-links/", data=form, timeout=20)
    assert "There is no such session" in answer.text
    await guest.wait_notice(notice="disconnecting", reason="revoked")
    assert (await other.act("message", {"content": "still"}))["status"] == "ok"
