"""Requests to the admin of a running site that no page of it offers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.acceptance.operators import Operator
from tests.acceptance.site import Client, Site

Connect = Callable[..., Awaitable[Client]]


async def test_operator_cannot_read_what_is_hidden_by_guessing_nor_stop_the_site_by_a_regular_expression(
    site: Site, connect: Connect
) -> None:
    client = await connect(site)
    await client.initialize("echo")
    sent = await client.act("message", {"content": "a" * 60})
    await client.wait_for(observation="echo", cause=sent["id"])
    operator = await asyncio.to_thread(Operator, site)

    def ask(query: str) -> int:
        return operator.http.get(f"{site.url}/admin/ohsessions/{query}", timeout=20).status_code

    hidden = [
        "session/?settings__icontains=",
        "session/?snapshot__icontains=",
        "session/?secrets__startswith=",
        "session/?owner__password__startswith=",
        "connection/?sid__startswith=",
        "connection/?_popup=1&session__secrets__startswith=",
        "event/?hidden_text__startswith=",
        "transition/?session__snapshot__icontains=",
    ]
    for query in hidden:
        for guess in ("a", "g", "p", "{"):
            assert await asyncio.to_thread(ask, query + guess) == 400, query
    for column in ("data", "pk__session__title", "session__title", "excerpt"):
        await asyncio.to_thread(ask, f"event/?{column}__regex=(a|aa)%2BX")
    sent = await client.act("message", {"content": "still here"})
    await client.wait_for(observation="echo", cause=sent["id"])
