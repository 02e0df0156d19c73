"""The check of GitHub tokens. GitHub is a server of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.acceptance.raw import RawClient
from tests.acceptance.site import Site

Connect = Callable[..., Awaitable[RawClient]]
CHECK = "ohsessions.access.github.AllowedLogins"


class GitHub:
    """A server that knows some tokens. `asked` lists the tokens sent to it. `answer` replaces its answer."""

    def __init__(self) -> None:
        self.logins = {"ghp_octo": "OctoCat", "ghp_other": "other"}
        self.asked: list[str] = []
        self.answer: Callable[[], Awaitable[web.Response]] | None = None
        self.server: Any = None

    @property
    def url(self) -> str:
        return str(self.server.make_url("/")).rstrip("/")

    async def user(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.asked.append(token)
        if self.answer is not None:
            return await self.answer()
        if token not in self.logins:
            return web.json_response({"message": "Bad credentials"}, status=401)
        return web.json_response({"login": self.logins[token]})


@pytest.fixture
async def github() -> AsyncIterator[GitHub]:
    made = GitHub()
    application = web.Application()
    application.router.add_get("/user", made.user)
    made.server = TestServer(application)
    await made.server.start_server()
    yield made
    await made.server.close()


@pytest.fixture
async def site(make_site: Callable[..., Site], github: GitHub) -> Site:
    settings = {"GITHUB_TOKEN_CHECK": CHECK, "GITHUB_LOGINS": ["octocat"], "GITHUB_API_URL": github.url}
    return await asyncio.to_thread(make_site, CLOSE_DELAY=30, **settings)


async def init(connect_raw: Connect, site: Site, **payload: Any) -> tuple[RawClient, dict[str, Any]]:
    client = await connect_raw(site)
    return client, await client.act("initialize", {"runtime": "echo"}, **payload)


def refusal(answer: dict[str, Any]) -> tuple[int, str]:
    return answer["error_code"], answer["reason"]


async def test_only_who_is_on_the_list_gets_in_and_each_token_is_asked_about_once(
    site: Site, github: GitHub, connect_raw: Connect
) -> None:
    for token in ("ghp_other", "ghp_unknown", None, "two\nlines", "x" * 300, "gh\u00fc"):
        _, answer = await init(connect_raw, site, github_token=token)
        assert refusal(answer) == (403, "github_user"), token
    assert site.query("SELECT count(*) FROM ohsessions_session") == [(0,)]
    sessions = [await init(connect_raw, site, github_token="ghp_octo") for _ in range(2)]
    assert [answer["status"] for _, answer in sessions] == ["ok", "ok"]
    client, first = sessions[0]
    _, answer = await init(connect_raw, site, token=first["token"])
    assert refusal(answer) == (403, "github_user")
    _, answer = await init(connect_raw, site, token=first["token"], github_token="ghp_octo")
    assert answer["session_id"] == first["session_id"]
    assert (await client.act("message", {"content": "still here"}))["status"] == "ok"
    assert github.asked == ["ghp_other", "ghp_unknown", "ghp_octo"]
    assert "ghp_" not in site.log.read_text()


async def test_attaching_while_connecting_needs_the_token_in_auth(
    site: Site, github: GitHub, connect_raw: Connect
) -> None:
    _, first = await init(connect_raw, site, github_token="ghp_octo")
    auth = {"conversation_id": first["session_id"], "token": first["token"]}
    client = await connect_raw(site, auth=auth)
    assert client.refused is not None
    assert client.refused["data"] == {"error_code": 403, "reason": "github_user"}
    client = await connect_raw(site, auth=auth, query={"github_token": "ghp_octo"})
    assert client.refused is not None
    client = await connect_raw(site, auth=auth | {"github_token": "ghp_octo"})
    assert client.connected is not None


async def test_a_github_that_does_not_say_is_a_503_for_that_connection_and_is_asked_again(
    site: Site, github: GitHub, connect_raw: Connect
) -> None:
    client, _ = await init(connect_raw, site, github_token="ghp_octo")

    async def broken() -> web.Response:
        return web.Response(status=502)

    async def redirect() -> web.Response:
        return web.Response(status=302, headers={"Location": "/user"})

    async def nonsense() -> web.Response:
        return web.Response(text="<html>")

    for answer in (broken, redirect, nonsense):
        github.answer = answer
        before = len(github.asked)
        _, told = await init(connect_raw, site, github_token="ghp_new")
        assert refusal(told) == (503, "unavailable")
        assert len(github.asked) == before + 1
        assert (await client.act("message", {"content": "hi"}))["status"] == "ok"
    github.answer = None
    github.logins["ghp_new"] = "OCTOCAT"
    _, told = await init(connect_raw, site, github_token="ghp_new")
    assert told["status"] == "ok"
    assert "ghp_" not in site.log.read_text()


async def test_a_github_that_hangs_is_given_up_and_holds_up_nobody_else(
    site: Site, github: GitHub, connect_raw: Connect
) -> None:
    client, _ = await init(connect_raw, site, github_token="ghp_octo")
    asked, released = asyncio.Event(), asyncio.Event()

    async def hang() -> web.Response:
        asked.set()
        await released.wait()
        return web.Response(status=500)

    github.answer = hang
    waiting = asyncio.create_task(init(connect_raw, site, github_token="ghp_new"))
    await asked.wait()
    assert (await client.act("message", {"content": "hi"}))["status"] == "ok"
    assert refusal((await waiting)[1]) == (503, "unavailable")
    released.set()
