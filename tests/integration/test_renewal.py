"""New secrets of a running session: its activation knows them before any action may contain them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from ohsessions import lifecycle
from ohsessions.core.runtime import Action, Runtime
from ohsessions.journal import Append
from ohsessions.models import Event
from ohsessions.processes.store import Store
from ohsessions.worker.host import SessionHost
from tests.integration import boundaries
from tests.integration.world import World, action, session

OLD, NEW = "gh-old-5b1f", "gh-new-7c2a"


class Telling(Runtime):
    """A runtime that repeats each message with its secret, and records the names of changed secrets."""

    told: list[set[str]]
    news: asyncio.Event

    async def handle(self, action: Action) -> None:
        content = f"{action.args['content']} {self.context.secrets.get('github_token')}"
        if content.startswith("break"):
            raise RuntimeError(content)
        await self.context.emit(observation="said", content=content, extras={"length": len(content)})

    async def secrets_changed(self, names: Collection[str]) -> None:
        self.told.append(set(names))
        self.news.set()
        if self.context.settings.get("breaks"):
            raise RuntimeError(self.context.secrets["github_token"])


@pytest.fixture(autouse=True)
def _telling(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"BACKEND": f"{__name__}.Telling"}
    settings.OHSESSIONS = {**settings.OHSESSIONS, "RUNTIMES": {"echo": entry}}
    monkeypatch.setattr(Telling, "told", [], raising=False)
    monkeypatch.setattr(Telling, "news", asyncio.Event(), raising=False)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store()
    yield store
    await store.close()


async def until(store: Store, true: Callable[[], bool], what: str) -> None:
    await boundaries.until(lambda: store.database.read(true), what)


@asynccontextmanager
async def hosted(world: World, session_id: UUID, store: Store) -> AsyncIterator[SessionHost]:
    """Run an activation, and cut it off at the end."""
    won = await store.change(lifecycle.claim, session_id, world.worker)
    assert won is not None
    host = SessionHost(store, won[0], time.monotonic())
    task = asyncio.create_task(host.run())
    try:
        await until(store, lambda: session(session_id).state == "running", "the session running")
        yield host
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def say(store: Store, session_id: UUID, content: str, **fields: Any) -> int:
    return (await store.append(Append(session_id, [action(content, **fields)]))).numbers[0]


def said(session_id: UUID) -> str:
    """Return all output of the runtime."""
    return "".join(Event.objects.filter(session=session_id, kind="said").values_list("data", flat=True))


async def test_an_action_after_a_new_secret_is_not_handled_before_the_activation_knows_it(
    world: World, store: Store
) -> None:
    """No notice reaches the activation: neither a hint nor reconciliation comes in time."""
    opened = await store.change(world.open, github_token=OLD)
    session_id = opened.change.session_id
    async with hosted(world, session_id, store) as host:
        await store.change(world.attach, session_id, github_token=NEW)
        await say(store, session_id, f"I say {NEW} and {OLD}")
        host.wake()
        length = len(f"I say {NEW} and {OLD} {NEW}")
        await until(store, lambda: f'"length":{length}' in said(session_id), "the answer")
    text = await store.database.read(said, session_id)
    assert "I say <secret> and <secret> <secret>" in text
    assert not [secret for secret in (OLD, NEW) if secret in text]
    assert Telling.told == [{"github_token"}]


async def test_the_runtime_hears_of_a_new_secret_while_nobody_acts(world: World, store: Store) -> None:
    opened = await store.change(world.open, github_token=OLD)
    session_id = opened.change.session_id
    async with hosted(world, session_id, store) as host:
        attached = await store.change(world.attach, session_id, github_token=NEW, args={"A_KEY": "k-1"})
        assert attached.change.secrets_version == 2
        host.notice_secrets(attached.change.secrets_version)
        async with asyncio.timeout(15):
            await Telling.news.wait()
        assert Telling.told == [{"github_token", "a_key"}]
        host.notice_secrets(1)  # an old hint
        host.notice_secrets(2)
        await say(store, session_id, "hello")
        host.wake()
        await until(store, lambda: "hello <secret>" in said(session_id), "the answer")
    assert len(Telling.told) == 1


async def test_a_runtime_that_breaks_over_a_new_secret_does_not_tell_it(
    world: World, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    opened = await store.change(world.open, github_token=OLD, args={"breaks": True})
    session_id = opened.change.session_id
    async with hosted(world, session_id, store) as host:
        await store.change(world.attach, session_id, github_token=NEW)
        host.notice_secrets(2)
        await until(store, lambda: session(session_id).crashes == 1, "the crash")
    assert "RuntimeError: <secret>" in caplog.text
    assert NEW not in caplog.text + (await store.database.read(session, session_id)).reason


async def test_what_a_hidden_action_said_is_cut_out_of_its_crash(
    world: World, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    session_id = (await store.change(world.open)).change.session_id
    async with hosted(world, session_id, store) as host:
        hidden = '{"content":"break with canary-5b1f","hidden":true}'
        body = '{"source":"user","message":"","action":"message","args":{"content":"","hidden":true}}'
        await say(store, session_id, "", body=body, hidden=hidden)
        host.wake()
        await until(store, lambda: session(session_id).crashes == 1, "the crash")
    assert "RuntimeError: <secret> None" in caplog.text
    assert "canary-5b1f" not in caplog.text + (await store.database.read(session, session_id)).reason
