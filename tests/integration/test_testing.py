"""The client with which a site tests itself, and the example of the documentation, word for word."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.models import Session

from ohsessions.core.errors import WireError
from ohsessions.routing import mount
from ohsessions.testing import SocketIOClient, running
from tests.tasks import check_tasks

DOCUMENT = Path(__file__).parents[2] / "docs" / "runtimes.md"


def code(beginning: str) -> Any:
    """Return the compiled block of Python in the document that has this beginning."""
    text = DOCUMENT.read_text()
    (found,) = re.finditer(rf"(?<=```python\n){re.escape(beginning)}.*?(?=```)", text, re.DOTALL)
    lines_before = text.count("\n", 0, found.start())
    return compile("\n" * lines_before + found[0], DOCUMENT, "exec")


exec(code("from ohsessions import Action, Runtime\n"))
exec(code("from uuid import UUID\n"))


@pytest.fixture(autouse=True)
def counter(settings: Any) -> None:
    """Configure the runtime of the document."""
    settings.OHSESSIONS = settings.OHSESSIONS | {"RUNTIMES": {"counter": {"BACKEND": f"{__name__}.Counter"}}}


async def test_what_runs_in_a_test_leaves_no_task_behind(transactional_db: None) -> None:
    before = asyncio.all_tasks()
    async with running(mount(None)) as application, SocketIOClient(application):
        assert asyncio.all_tasks() > before
    check_tasks(before)


async def test_an_application_does_not_run_again(transactional_db: None) -> None:
    application = mount(None)
    async with running(application):
        pass
    with pytest.raises(RuntimeError, match="call mount"):
        async with running(application):
            pass


async def test_a_stranger_is_one_and_a_token_opens_the_session_to_it(
    transactional_db: None, django_user_model: Any
) -> None:
    ann = await django_user_model.objects.acreate_user("ann")
    async with running(mount(None)) as application, SocketIOClient(application) as stranger:
        with pytest.raises(WireError) as caught:
            await stranger.init()
        assert (caught.value.code, caught.value.reason) == (401, "login_required")
        async with SocketIOClient(application, user=ann) as client:
            await client.init()
            answer = await stranger.init(token=client.token)
            assert (answer["session_id"], answer["role"]) == (client.session_id, "owner")
            await stranger.act("message", {"content": "of a stranger"})
            heard = await client.event(action="message")
            assert heard["args"] == {"content": "of a stranger"}


async def test_a_client_that_attaches_while_it_connects_and_a_login_in_the_scope(
    transactional_db: None, django_user_model: Any
) -> None:
    ann = await django_user_model.objects.acreate_user("ann")
    application = mount(None, authenticate=lambda application: application)
    async with running(application):
        async with SocketIOClient(application, scope={"user": ann}) as client:
            await client.init()
        wanted = {"conversation_id": client.session_id}
        async with SocketIOClient(application, scope={"user": ann}, auth=wanted) as again:
            await again.event(status="ok")
            assert again.session_id == client.session_id
        with pytest.raises(WireError) as caught:
            await SocketIOClient(application, auth=wanted).connect()
        assert (caught.value.code, caught.value.reason) == (404, "unknown_session")


async def test_a_client_that_is_logged_out_meanwhile_is_told(
    transactional_db: None, django_user_model: Any
) -> None:
    """The login is a session of Django's own, as a browser has it."""
    ann = await django_user_model.objects.acreate_user("ann")
    async with running(mount(None)) as application, SocketIOClient(application, user=ann) as client:
        await client.init()
        await Session.objects.all().adelete()
        await client.notice(notice="disconnecting", reason="logged_out")
        with pytest.raises(ConnectionError):
            await client.notice(notice="never")
