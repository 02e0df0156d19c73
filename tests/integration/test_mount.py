"""The start and stop of a mounted application, and the visible result of a failed start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ohsessions.gateway.gateway import Gateway
from ohsessions.routing import Mount, mount, stop_mounts
from tests.tasks import check_tasks

LIMIT = 20.0


async def django(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


class Lifespan:
    """A server's side of ASGI's lifespan."""

    def __init__(self, application: Mount) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        self.task = asyncio.create_task(application(scope, self.incoming.get, self.answers.put))

    async def say(self, what: str) -> dict[str, Any]:
        self.incoming.put_nowait({"type": f"lifespan.{what}"})
        async with asyncio.timeout(LIMIT):
            return await self.answers.get()


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: Gateway) -> None:
        raise ValueError("a setting is wrong")

    monkeypatch.setattr(Gateway, "start", start)


async def test_it_starts_and_stops_with_lifespan(transactional_db: None) -> None:
    before = asyncio.all_tasks()
    lifespan = Lifespan(mount(django))
    assert await lifespan.say("startup") == {"type": "lifespan.startup.complete"}
    assert await lifespan.say("shutdown") == {"type": "lifespan.shutdown.complete"}
    await lifespan.task
    check_tasks(before)


async def test_a_start_that_fails_is_said_to_the_server_and_logged(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(monkeypatch)
    before = asyncio.all_tasks()
    application = mount(django)
    lifespan = Lifespan(application)
    answer = await lifespan.say("startup")
    message = "ohsessions could not start: ValueError('a setting is wrong')"
    assert answer == {"type": "lifespan.startup.failed", "message": message}
    await lifespan.task
    assert "ohsessions could not start" in caplog.text
    await application.stop()
    check_tasks(before)


async def test_whatever_fails_at_the_stop_the_worker_is_stopped(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one process, an error of one connection must not lose the snapshots of all sessions."""
    before = asyncio.all_tasks()
    stop = Gateway.stop

    async def stop_and_fail(self: Gateway, reason: str) -> None:
        await stop(self, reason)
        raise ZeroDivisionError

    monkeypatch.setattr(Gateway, "stop", stop_and_fail)
    application = mount(django)
    await application.started()
    await stop_mounts()
    assert "Stopping the gateway failed. The stop continues." in caplog.text
    check_tasks(before)
