"""Links are listed, limited in time and in number, and revoked on all nodes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.people import Person
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site

Connect = Callable[..., Awaitable[RawClient]]
LIMIT = 5.0
POLICY = "tests.acceptance.policies.EditorsShare"


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(CLOSE_DELAY=30)


async def begin(connect_raw: Connect, site: Site) -> tuple[RawClient, str, str]:
    owner = await connect_raw(site)
    answer = await owner.act("initialize", {"runtime": "echo"})
    return owner, answer["session_id"], answer["token"]


async def join(connect_raw: Connect, site: Site, token: str) -> RawClient:
    client = await connect_raw(site)
    assert (await client.act("initialize", token=token))["token"] == token
    return client


async def check_revoked(client: RawClient, since: float) -> None:
    await client.wait_notice(notice="disconnecting", reason="revoked")
    await client.wait(lambda: client.ended, "the end of the connection")
    assert time.monotonic() - since < LIMIT


async def check_refused(connect_raw: Connect, site: Site, session_id: str, token: str) -> None:
    client = await connect_raw(site)
    refused = await client.act("initialize", token=token)
    assert (refused["error_code"], refused["reason"]) == (401, "invalid_token")
    assert Person(site).ask("GET", f"{session_id}/", token=token).status_code == 401


async def test_links_are_listed_with_their_role_end_and_last_use_and_without_their_token(
    site: Site, connect_raw: Connect
) -> None:
    _, session_id, owner = await begin(connect_raw, site)
    anybody = Person(site)
    first = anybody.share(session_id, "viewer", owner, label="Bo\u202eb\n", expires_in=60)
    second = anybody.share(session_id, "editor", owner)
    await join(connect_raw, site, second)
    answer = anybody.ask("GET", f"{session_id}/links/", token=owner)
    assert first not in answer.text
    newest, oldest = answer.json()["links"]
    assert (newest["role"], newest["label"], newest["last_used_at"] is None) == ("editor", "", False)
    assert (oldest["role"], oldest["label"], oldest["last_used_at"]) == ("viewer", "Bob ", None)
    assert oldest["expires_at"] < newest["expires_at"]
    for token in (first, second):
        assert anybody.ask("GET", f"{session_id}/links/", token=token).status_code == 403


async def test_a_revoked_link_ends_its_sockets_and_no_others(site: Site, connect_raw: Connect) -> None:
    owner_socket, session_id, owner = await begin(connect_raw, site)
    anybody = Person(site)
    bad, good = (anybody.share(session_id, "editor", owner) for _ in range(2))
    guest, friend = await join(connect_raw, site, bad), await join(connect_raw, site, good)
    key = anybody.links(session_id, owner)[1]["id"]
    assert anybody.ask("DELETE", f"{session_id}/links/{key}/", token=good).status_code == 403
    assert anybody.ask("DELETE", f"{session_id}/links/{key}/", token=owner).json() == {"status": "ok"}
    await check_revoked(guest, time.monotonic())
    await check_refused(connect_raw, site, session_id, bad)
    for client in (owner_socket, friend):
        assert (await client.act("message", {"content": "here"}))["status"] == "ok"
    assert [link["id"] for link in anybody.links(session_id, owner)] != [key]
    again = anybody.ask("DELETE", f"{session_id}/links/{key}/", token=owner)
    assert (again.status_code, again.json()["error"]["reason"]) == (404, "unknown_link")


async def test_revoking_all_ends_everybody_on_all_nodes_and_the_owner_goes_on_with_a_new_token(
    make_cluster: Callable[..., Cluster], connect_raw: Connect
) -> None:
    cluster = make_cluster(workers=1)
    here, there = cluster.gateways
    owner_socket, session_id, owner = await begin(connect_raw, here)
    anybody = Person(here)
    link = anybody.share(session_id, "viewer", owner)
    guests = [await join(connect_raw, there, token) for token in (link, owner)]
    answer = anybody.ask("DELETE", f"{session_id}/links/", token=owner).json()
    since = time.monotonic()
    assert answer["connections"] == 3
    for client in (owner_socket, *guests):
        await check_revoked(client, since)
    for token in (link, owner):
        await check_refused(connect_raw, there, session_id, token)
    await join(connect_raw, there, answer["token"])
    assert anybody.links(session_id, answer["token"]) == []


async def test_a_link_that_comes_to_its_end_ends_its_sockets(site: Site, connect_raw: Connect) -> None:
    _, session_id, owner = await begin(connect_raw, site)
    link = Person(site).share(session_id, "viewer", owner, expires_in=2)
    since = time.monotonic()
    guest = await join(connect_raw, site, link)
    await guest.wait_notice(notice="disconnecting", reason="revoked")
    assert 2 <= time.monotonic() - since < 2 + LIMIT
    await check_refused(connect_raw, site, session_id, link)


async def test_editors_share_nothing_by_default(site: Site, connect_raw: Connect) -> None:
    _, session_id, owner = await begin(connect_raw, site)
    anybody = Person(site)
    editor = anybody.share(session_id, "editor", owner)
    answer = anybody.ask("POST", f"{session_id}/share/", {"role": "viewer"}, editor)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "role")


async def test_what_an_editor_may_give_out_ends_with_the_editors_own_link(
    make_site: Callable[..., Site], connect_raw: Connect
) -> None:
    site = make_site(ACCESS_POLICY=POLICY)
    _, session_id, owner = await begin(connect_raw, site)
    anybody = Person(site)
    editor = anybody.share(session_id, "editor", owner, expires_in=60)
    child = anybody.share(session_id, "editor", editor)
    grandchild = anybody.share(session_id, "editor", child, expires_in=3600)
    ends = {link["expires_at"] for link in anybody.links(session_id, owner)}
    assert len(ends) == 1
    guest = await join(connect_raw, site, grandchild)
    key = anybody.links(session_id, owner)[-1]["id"]
    anybody.ask("DELETE", f"{session_id}/links/{key}/", token=owner)
    await check_revoked(guest, time.monotonic())
    for token in (editor, child, grandchild):
        await check_refused(connect_raw, site, session_id, token)
