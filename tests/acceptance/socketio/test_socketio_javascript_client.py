"""socket.io-client in Node against the consumer under a real daphne, over all transports."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.socketio.conftest import Server

TRANSPORTS = [["websocket"], ["polling"], ["polling", "websocket"]]
every_transport = pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)


async def play(node: str, server: Server, scenario: str, transports: list[str]) -> Any:
    """Run a scenario of client.mjs, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        node,
        str(Path(__file__).with_name("client.mjs")),
        server.url,
        scenario,
        *transports,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


@every_transport
async def test_events_and_acknowledgements_go_both_ways(
    node: str, daphne: Server, transports: list[str]
) -> None:
    assert await play(node, daphne, "echo", transports) == {
        "auth": {"token": "é"},
        "first": {"a": [1, "\u2028", None]},
        "transport": transports[-1],
        "second": "after",
        "asked": ["who!"],
        "customAuth": {"place": 2},
    }


@every_transport
async def test_megabytes_arrive_whole_and_in_order(node: str, daphne: Server, transports: list[str]) -> None:
    assert await play(node, daphne, "flood", transports) == {"order": True, "transport": transports[-1]}


async def test_an_upgrade_under_traffic_loses_doubles_and_reorders_nothing(node: str, daphne: Server) -> None:
    assert await play(node, daphne, "upgrade", ["polling", "websocket"]) == {
        "order": True,
        "count": 300,
        "transport": "websocket",
    }


@every_transport
async def test_what_was_emitted_offline_is_handled_in_order(
    node: str, daphne: Server, transports: list[str]
) -> None:
    assert await play(node, daphne, "offline", transports) is True


@every_transport
async def test_a_binary_event_is_refused_and_costs_no_connection(
    node: str, daphne: Server, transports: list[str]
) -> None:
    assert await play(node, daphne, "binary", transports) == {
        "reason": "not_json",
        "name": "image",
        "after": "here",
    }


@every_transport
async def test_a_refused_client_gets_message_and_data(
    node: str, daphne: Server, transports: list[str]
) -> None:
    assert await play(node, daphne, "refused", transports) == {
        "message": "no",
        "data": {"error_code": 401, "reason": "login_required"},
    }


@every_transport
async def test_a_client_that_is_disconnected_stays_away(
    node: str, daphne: Server, transports: list[str]
) -> None:
    assert await play(node, daphne, "kicked", transports) == {
        "reason": "io server disconnect",
        "active": False,
    }


@every_transport
async def test_a_client_that_shall_come_back_does(node: str, daphne: Server, transports: list[str]) -> None:
    assert (await play(node, daphne, "recalled", transports))["reason"] == "transport close"
