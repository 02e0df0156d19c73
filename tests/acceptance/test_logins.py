"""The end of a login ends everything: live sockets, INIT, HTTP, and the tokens that were issued to it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.people import PASSWORD, Person, make_user
from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site

Connect = Callable[..., Awaitable[RawClient]]
LIMIT = 5.0
NAMES = (f"ann{number}" for number in itertools.count())
USER = "from django.contrib.auth import get_user_model as m; u = m().objects.get(username={name!r});"


def change(site: Site, name: str | None, code: str) -> None:
    site.manage("shell", "-v", "0", "-c", USER.format(name=name) + code)


def log_out(person: Person) -> None:
    person.log_out()


def deactivate(person: Person) -> None:
    change(person.site, person.name, "u.is_active = False; u.save()")


def change_password(person: Person) -> None:
    change(person.site, person.name, "u.set_password('another one'); u.save()")


def delete(person: Person) -> None:
    change(person.site, person.name, "u.delete()")


def flush(person: Person) -> None:
    """End Django's session, as its expiry does."""
    key = person.http.cookies["sessionid"]
    code = f"from django.contrib.sessions.models import Session as S; S.objects.filter(pk={key!r}).delete()"
    change(person.site, person.name, code)


@pytest.fixture(scope="module")
def site(make_shared_site: Callable[..., Site]) -> Site:
    return make_shared_site(ALLOW_ANONYMOUS=False, CLOSE_DELAY=30)


async def begin(connect_raw: Connect, person: Person) -> tuple[RawClient, str, str]:
    """Return a client that is attached to a new session, the session's id, and its owner's token."""
    client = await connect_raw(person.site, headers=person.headers)
    answer = await client.act("initialize", {"runtime": "echo"})
    assert answer["status"] == "ok", answer
    return client, answer["session_id"], answer["token"]


async def check_logged_out(client: RawClient, since: float) -> None:
    await client.wait_notice(notice="disconnecting", reason="logged_out")
    await client.wait(lambda: client.ended, "the end of the connection")
    assert time.monotonic() - since < LIMIT


async def check_refused(connect_raw: Connect, site: Site, token: str, **options: Any) -> None:
    """Check that the token, with anything else beside it, joins nothing and starts nothing."""
    client = await connect_raw(site, **options)
    assert (await client.act("initialize", token=token))["reason"] == "invalid_token"
    assert (await client.act("initialize", {"runtime": "echo"}))["reason"] == "login_required"


@pytest.mark.parametrize("end", [log_out, deactivate, change_password, delete, flush])
async def test_a_login_that_ends_takes_its_sockets_its_cookies_and_its_tokens_along(
    site: Site, connect_raw: Connect, end: Callable[[Person], None]
) -> None:
    name = next(NAMES)
    make_user(site, name)
    person = Person(site, name)
    attached, session_id, token = await begin(connect_raw, person)
    idle = await connect_raw(site, headers=person.headers)
    by_token = await connect_raw(site)
    assert (await by_token.act("initialize", token=token))["token"] == token
    cookies = person.headers
    end(person)
    since = time.monotonic()
    await check_logged_out(attached, since)
    await check_logged_out(idle, since)
    await by_token.wait_notice(notice="disconnecting", reason="revoked")
    assert time.monotonic() - since < LIMIT
    await check_refused(connect_raw, site, token)
    await check_refused(connect_raw, site, token, headers=cookies)
    stranger = Person(site)
    assert stranger.ask("GET", f"{session_id}/", token=token).status_code == 401
    assert stranger.ask("POST", f"{session_id}/share/", {"role": "viewer"}, token).status_code == 401
    assert person.ask("GET", "").status_code == 401


async def test_a_person_who_logs_in_again_goes_on_with_the_token_of_before(
    site: Site, connect_raw: Connect
) -> None:
    name = next(NAMES)
    make_user(site, name)
    person = Person(site, name)
    _, session_id, token = await begin(connect_raw, person)
    person.log_out()
    person.log_in()
    client = await connect_raw(site, headers=person.headers)
    answer = await client.act("initialize", token=token)
    assert (answer.get("session_id"), answer.get("token")) == (session_id, token)


async def test_a_link_outlives_the_login_of_whoever_gave_it_out(site: Site, connect_raw: Connect) -> None:
    name = next(NAMES)
    make_user(site, name)
    person = Person(site, name)
    owner, session_id, _ = await begin(connect_raw, person)
    link = person.share(session_id)
    guest = await connect_raw(site)
    assert (await guest.act("initialize", token=link))["token"] == link
    deactivate(person)
    await owner.wait_notice(notice="disconnecting", reason="logged_out")
    assert (await guest.act("message", {"content": "still here"}))["status"] == "ok"
    late = await connect_raw(site)
    assert (await late.act("initialize", token=link))["session_id"] == session_id


async def test_a_login_that_ends_on_one_gateway_ends_the_sockets_of_the_other(
    make_cluster: Callable[..., Cluster], connect_raw: Connect
) -> None:
    cluster = make_cluster(workers=1, ALLOW_ANONYMOUS=False)
    here, there = cluster.gateways
    make_user(here, "ann")
    person = Person(here, "ann")
    clients = [await connect_raw(gateway, headers=person.headers) for gateway in (here, there)]
    token = (await clients[0].act("initialize", {"runtime": "echo"}))["token"]
    assert (await clients[1].act("initialize", token=token))["token"] == token
    person.log_out()
    since = time.monotonic()
    for client in clients:
        await check_logged_out(client, since)
    await check_refused(connect_raw, there, token)


async def test_guesses_at_a_password_are_slowed_and_its_owner_elsewhere_is_not(site: Site) -> None:
    name = next(NAMES)
    make_user(site, name)
    for wanted in [200] * 5 + [429]:
        guesser = Person(site)
        assert guesser.try_password(name, "a guess").status_code == wanted
    assert guesser.try_password(name, PASSWORD, "127.0.0.2").status_code == 302
