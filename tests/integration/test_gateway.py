"""A gateway when database, layer and clients do not agree. The database is the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

from ohsessions import journal, lifecycle, vault
from ohsessions.access import Role, issue_token
from ohsessions.conf import conf
from ohsessions.core.clock import FakeClock
from ohsessions.core.errors import Unavailable
from ohsessions.database import database_clock, lanes
from ohsessions.gateway import client as client_module
from ohsessions.gateway import gateway as gateway_module
from ohsessions.gateway import subscriptions as subscriptions_module
from ohsessions.gateway.attachment import ClientPhase
from ohsessions.gateway.client import Client
from ohsessions.gateway.gateway import Gateway
from ohsessions.gateway.subscriptions import Subscriptions
from ohsessions.models import Connection, Event, Process, Session
from ohsessions.processes import leases
from ohsessions.processes.store import Store
from ohsessions.wakeups import session_group
from tests.integration.boundaries import until
from tests.integration.world import row_locked

LIMIT = 10.0


class FakeSocket:
    """A Socket that keeps everything that is sent to its client."""

    transport = "websocket"
    writable = True
    guest = None
    event_size = 0

    def __init__(self) -> None:
        self.sid = uuid4().hex
        self.scope: dict[str, Any] = {"user": None, "headers": []}
        self.sent: list[tuple[str, Any]] = []
        self.packets: list[str] = []
        self.ended: tuple[str, bool] | None = None
        self.news = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self.ended is not None

    async def wait_writable(self) -> None:
        pass

    def lift_limit(self) -> None:
        pass

    def emit(self, name: str, payload: Any) -> None:
        self.sent.append((name, payload))
        self.news.set()

    def send_text(self, packet: str) -> None:
        self.packets.append(packet)
        self.news.set()

    async def disconnect(self, reason: str, *, reconnect: bool = False) -> None:
        self.ended = (reason, reconnect)
        self.news.set()

    async def wait(self, found: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(LIMIT):
                while not found():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come; sent was {self.sent}") from None


class ForgetfulStore(Store):
    """A store that commits the next `lost` changes, but reports that the database was away."""

    lost = 0
    after_attach: Callable[[UUID], Awaitable[None]] | None = None
    """An awaitable that runs after the commit of an attach, before anybody knows of the commit."""

    async def change_soon(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        done = await super().change_soon(function, *args, **kwargs)
        if getattr(function, "func", function) in (lifecycle.attach, lifecycle.open_session):
            if self.lost:
                self.lost -= 1
                raise Unavailable
            if self.after_attach is not None:
                await self.after_attach(done.change.session_id)
        return done


@pytest.fixture
async def gateway(
    transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """Yield a running gateway that reconciles often."""
    monkeypatch.setattr(gateway_module, "RECONCILE_EVERY", 0.1)
    settings.OHSESSIONS = settings.OHSESSIONS | {"ALLOW_ANONYMOUS": True, "DEFAULT_RUNTIME": "echo"}
    store = ForgetfulStore()
    made = Gateway(store)
    await made.start()
    yield made
    await made.stop("the test is over")
    await store.close()


async def connect(gateway: Gateway) -> tuple[Client, FakeSocket]:
    socket = FakeSocket()
    client = gateway.accept(socket)  # type: ignore[arg-type]
    await client.connect({})
    return client, socket


async def ask(client: Client, **payload: Any) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    await client.event("oh_action", [payload], answers.append)
    return answers[0]


async def attached(gateway: Gateway) -> dict[str, UUID]:
    return await gateway.store.database.read(lifecycle.open_connections, gateway.process_id)


async def is_alone(gateway: Gateway) -> bool:
    return not await attached(gateway)


def stop_reconciling(gateway: Gateway) -> None:
    gateway._reconcile = partial(asyncio.sleep, 0)  # type: ignore[method-assign]


async def test_an_attach_whose_answer_was_lost_is_undone_and_can_be_repeated(gateway: Gateway) -> None:
    client, socket = await connect(gateway)
    gateway.store.lost = 1  # type: ignore[attr-defined]
    answer = await ask(client, action="initialize")
    assert answer["reason"] == "unavailable"
    assert list(await attached(gateway)) == [socket.sid]
    await until(lambda: is_alone(gateway), "nobody attached")
    assert socket.ended is None
    assert (await ask(client, action="initialize"))["status"] == "ok"
    assert list(await attached(gateway)) == [socket.sid]


async def test_who_thinks_to_be_elsewhere_than_the_database_says_is_told_to_reconnect(
    gateway: Gateway,
) -> None:
    client, socket = await connect(gateway)
    await ask(client, action="initialize")
    gateway.store.lost = 1  # type: ignore[attr-defined]
    assert (await ask(client, action="initialize"))["reason"] == "unavailable"
    await socket.wait(lambda: socket.ended, "the end")
    assert socket.ended == ("gateway_lost", True)
    assert [payload["reason"] for name, payload in socket.sent if "disconnecting" in payload.values()] == [
        "gateway_lost"
    ]


async def test_a_client_is_in_the_phase_that_fits_its_attachment(gateway: Gateway) -> None:
    client, _ = await connect(gateway)
    during: list[ClientPhase] = []

    async def note(session_id: UUID) -> None:
        during.append(client.phase)

    async def now(**payload: Any) -> tuple[ClientPhase, bool]:
        await ask(client, **payload)
        return client.phase, client.attachment is not None

    gateway.store.after_attach = note  # type: ignore[attr-defined]
    init, refused = {"action": "initialize"}, {"action": "initialize", "token": "none of ours"}
    assert await now(**refused) == (ClientPhase.NEW, False)
    assert await now(**init) == (ClientPhase.ATTACHED, True)
    assert await now(**refused) == (ClientPhase.ATTACHED, True), "it stays where it was"
    assert await now(**init) == (ClientPhase.ATTACHED, True)
    assert await now(action="leave") == (ClientPhase.DETACHED, False)
    assert await now(**refused) == (ClientPhase.DETACHED, False)
    assert await now(**init) == (ClientPhase.ATTACHED, True)
    assert during == 3 * [ClientPhase.CHANGING]
    await client.end("operator")
    assert (client.phase, client.attachment) == (ClientPhase.DETACHED, None)


async def test_a_client_that_is_ended_while_it_attaches_is_detached_when_it_disconnects(
    gateway: Gateway,
) -> None:
    client, _ = await connect(gateway)
    seen: list[ClientPhase] = []

    async def end(session_id: UUID) -> None:
        await client.end("logged_out")
        seen.append(client.phase)

    gateway.store.after_attach = end  # type: ignore[attr-defined]
    await ask(client, action="initialize")
    assert seen == [ClientPhase.CHANGING]
    assert client.phase is ClientPhase.ATTACHED
    await client.disconnect("logged_out")
    assert client.phase is ClientPhase.DETACHED
    await until(lambda: is_alone(gateway), "nobody attached")


async def test_a_client_that_was_never_attached_has_no_row_to_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(gateway, "detach_later", lambda client, reason: ended.append(reason))
    client, _ = await connect(gateway)
    await ask(client, action="initialize", token="none of ours")
    await client.disconnect("first")
    client, _ = await connect(gateway)
    await ask(client, action="initialize")
    await ask(client, action="leave")
    await client.disconnect("second")
    assert ended == ["second"]


@pytest.mark.parametrize("error", [Unavailable(), ZeroDivisionError()], ids=["away", "broken"])
async def test_a_reconciliation_that_failed_is_not_the_last_one(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    compare = gateway._reconciliation.connections

    async def fail_once() -> None:
        monkeypatch.setattr(gateway._reconciliation, "connections", compare)
        raise error

    monkeypatch.setattr(gateway._reconciliation, "connections", fail_once)
    client, socket = await connect(gateway)
    await ask(client, action="initialize")
    del gateway.clients[socket.sid]
    await until(lambda: is_alone(gateway), "nobody attached")


async def test_a_pump_is_kept_for_who_is_about_to_be_added_to_it(gateway: Gateway) -> None:
    """Otherwise nobody would feed it: the layer and reconciliation know only the other pump."""
    one = uuid4()
    async with gateway.pump(one) as pump:
        async with gateway.pump(one):
            pass  # another client, whose attach failed
        async with gateway.pump(one) as again:
            assert again is pump
    assert not gateway._pumps


async def test_at_a_stop_clients_are_sent_away_in_batches_each_with_a_time_of_its_own(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "STOP_BATCH", 1)
    monkeypatch.setattr(gateway_module, "RECONNECTS_PER_SECOND", 1.0)
    sockets = [(await connect(gateway))[1] for _ in range(3)]
    gone: list[int] = []

    async def watch() -> None:
        while True:
            gone.append(sum(socket.closed for socket in sockets))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await gateway.stop("the test wants it")
    watching.cancel()
    assert {1, 2} <= set(gone), "others have their turn between"
    notices = [payload for socket in sockets for _, payload in socket.sent if "reconnect_in" in payload]
    times = [notice["reconnect_in"] for notice in notices]
    assert len(times) == 3
    assert 0 < max(times) <= 3


async def test_a_look_during_a_stop_does_not_take_what_is_written_off_for_lost(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, socket = await connect(gateway)
    session_id = UUID((await ask(client, action="initialize"))["session_id"])
    read = gateway.store.database.read
    head = (await read(Session.objects.get, pk=session_id)).head
    await socket.wait(lambda: client.cursor == head, "the last event")
    looks, seen = asyncio.Semaphore(0), gateway._reconciliation.logins
    begin_drain = gateway._membership.begin_drain

    async def look() -> None:
        await seen()
        looks.release()

    async def drain_after_looks() -> None:
        async with asyncio.timeout(LIMIT):
            for _ in range(3):
                await looks.acquire()
        await begin_drain()

    with monkeypatch.context() as stopping:
        stopping.setattr(gateway._reconciliation, "logins", look)
        stopping.setattr(gateway._membership, "begin_drain", drain_after_looks)
        await gateway.stop("the test wants it")
    row = await read(Connection.objects.get, sid=socket.sid)
    assert (row.sent_number, row.end_reason) == (head, "the test wants it")


async def test_at_a_stop_is_stored_how_far_each_client_was_sent(gateway: Gateway) -> None:
    client, socket = await connect(gateway)
    session_id = UUID((await ask(client, action="initialize"))["session_id"])
    read = gateway.store.database.read
    head = (await read(Session.objects.get, pk=session_id)).head
    await socket.wait(lambda: client.cursor == head, "the last event")
    await gateway.stop("the test wants it")
    row = await read(Connection.objects.get, sid=socket.sid)
    assert (row.sent_number, row.end_reason) == (head, "the test wants it")


async def test_connections_of_a_deleted_session_are_ended(gateway: Gateway) -> None:
    client, socket = await connect(gateway)
    session_id = (await ask(client, action="initialize"))["session_id"]
    await gateway.store.change(Session.objects.filter(pk=session_id).delete)
    await socket.wait(lambda: socket.ended, "the end")
    assert socket.ended == ("gateway_lost", True)


async def test_a_row_whose_socket_is_not_here_is_ended(gateway: Gateway) -> None:
    client, socket = await connect(gateway)
    await ask(client, action="initialize")
    del gateway.clients[socket.sid]  # as if its disconnect handler had never run
    await until(lambda: is_alone(gateway), "nobody attached")
    row = await gateway.store.database.read(Connection.objects.get, sid=socket.sid)
    assert row.end_reason == "gone"


async def test_a_locked_session_keeps_no_other_one_from_being_reconciled(
    postgres: None, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LOCK_PATIENCE", 10 * LIMIT)
    gone = [await connect(gateway) for _ in range(4)]
    for client, _ in gone:
        await ask(client, action="initialize")
    locked = next(iter((await attached(gateway)).values()))  # the first session that it looks at
    with row_locked(locked):
        for _, socket in gone:
            del gateway.clients[socket.sid]
        await until(lambda: only_attached(gateway, locked), "the others' connections ended")
    await until(lambda: is_alone(gateway), "nobody attached")


async def only_attached(gateway: Gateway, session_id: UUID) -> bool:
    return list((await attached(gateway)).values()) == [session_id]


async def test_who_disconnects_while_the_database_is_away_is_detached_when_it_is_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_reconciling(gateway)
    monkeypatch.setattr("ohsessions.processes.store.RETRY_FIRST", 0.0)
    client, socket = await connect(gateway)
    await ask(client, action="initialize")
    await ask(client, action="message", args={"content": "the last word"})
    await socket.wait(lambda: socket.packets, "its event")
    tries: list[str] = []
    detach = lifecycle.detach

    def detach_late(sid: str, reason: str, **options: Any) -> Any:
        tries.append(reason)
        if len(tries) < 3:
            raise Unavailable
        return detach(sid, reason, **options)

    monkeypatch.setattr(lifecycle, "detach", detach_late)
    await client.disconnect("transport close")
    await until(lambda: is_alone(gateway), "nobody attached")
    row = await gateway.store.database.read(Connection.objects.get, sid=socket.sid)
    assert (row.end_reason, row.sent_number) == ("transport close", 0)


async def test_an_operators_passivation_ends_connections_such_that_they_stay_away(gateway: Gateway) -> None:
    client, socket = await connect(gateway)
    session_id = UUID((await ask(client, action="initialize"))["session_id"])
    await gateway.store.change(lifecycle.force_passivation, session_id, by="ann")
    await gateway.store.announced()
    await socket.wait(lambda: socket.ended, "the end")
    assert socket.ended == ("operator", False)


async def test_who_never_sends_init_is_disconnected(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "UNATTACHED_SECONDS", 0.2)
    _, silent = await connect(gateway)
    attaching, socket = await connect(gateway)
    await ask(attaching, action="initialize")
    await ask(attaching, action="leave")
    await silent.wait(lambda: silent.ended, "the end")
    assert silent.ended == ("unattached", False)
    (notice,) = [payload for name, payload in silent.sent if name == "oh_notice"]
    assert (notice["notice"], notice["reason"]) == ("disconnecting", "unattached")
    assert socket.ended is None, "who said leave may stay"


async def test_nobody_is_attached_by_a_gateway_whose_lease_is_over(gateway: Gateway) -> None:
    """The row would name an id that the gateway gives up, so the connection would be ended at once."""
    client, socket = await connect(gateway)
    old = gateway.process_id
    await gateway._membership._let_go("the test says so")
    assert socket.ended is not None
    client, socket = await connect(gateway)
    assert (await ask(client, action="initialize"))["reason"] == "unavailable"
    assert not await gateway.store.database.read(Session.objects.count)
    await gateway._membership.renew()
    assert gateway.process_id != old
    assert (await ask(client, action="initialize"))["status"] == "ok"


async def test_who_attaches_at_a_gateway_that_was_declared_gone_is_told_to_try_again(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = await connect(gateway)
    await gateway.store.change(leases.mark_gone, gateway.process_id)
    assert (await ask(client, action="initialize"))["reason"] == "unavailable"
    assert [one.message for one in caplog.records if one.levelname == "ERROR"] == []


async def test_who_attaches_while_the_database_is_away_is_told_by_notice_and_stays(gateway: Gateway) -> None:
    first, _ = await connect(gateway)
    session_id = (await ask(first, action="initialize"))["session_id"]
    assert first.attachment is not None
    token = first.attachment.answer["token"]
    socket = FakeSocket()
    gateway.store.lost = 1  # type: ignore[attr-defined]
    await gateway.accept(socket).connect({"conversation_id": session_id, "token": token})  # type: ignore[arg-type]
    (sent,) = socket.sent
    assert sent[0] == "oh_notice"
    assert sent[1]["reason"] == "unavailable"
    assert sent[1]["notice"] == "not_attached"


@pytest.mark.parametrize("moment", ["before", "during"])
async def test_what_is_stored_between_attach_and_subscription_is_not_late(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The wake-up reached nobody: the gateway looks once, right after it has subscribed."""
    stop_reconciling(gateway)
    layer: Any = get_channel_layer()
    join = layer.group_add

    async def close(session_id: UUID) -> None:
        await gateway.store.database.write(lifecycle.close, session_id, by="somebody else")

    async def join_late(group: str, channel: str) -> None:
        await asyncio.gather(*gateway._tasks._spawned)  # an earlier look would have seen nothing
        await close(UUID(group.rpartition(".")[2]))
        await join(group, channel)

    if moment == "before":
        gateway.store.after_attach = close  # type: ignore[attr-defined]
    else:
        monkeypatch.setattr(layer, "group_add", join_late)
    client, socket = await connect(gateway)
    assert (await ask(client, action="initialize"))["status"] == "ok"
    assert socket.sent[0][1]["head"] == -1
    await socket.wait(lambda: any('"stopped"' in packet for packet in socket.packets), "the last event")
    await socket.wait(lambda: "closed" in str(socket.sent), "the notice of its state")


@pytest.mark.parametrize("times", [1, 2])
async def test_who_attaches_while_the_rows_are_read_is_not_taken_for_lost(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    stop_reconciling(gateway)
    client, socket = await connect(gateway)
    for _ in range(times - 1):
        await ask(client, action="initialize")
    read = gateway.store.database.read

    async def read_early(function: Any, *args: Any) -> Any:
        found = await read(function, *args)
        await ask(client, action="initialize")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(gateway.store.database, "read", read_early)
        await gateway._reconciliation.connections()
    assert socket.ended is None
    assert list(await attached(gateway)) == [socket.sid]


@pytest.mark.parametrize("action", ["initialize", "leave"])
async def test_who_is_about_to_hear_that_it_attached_or_left_is_left_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    stop_reconciling(gateway)
    client, socket = await connect(gateway)
    if action == "leave":
        await ask(client, action="initialize")
    change_soon, read = gateway.store.change_soon, gateway.store.database.read
    committed, may_answer = asyncio.Event(), asyncio.Event()
    asking: list[asyncio.Task[dict[str, Any]]] = []

    async def answer_late(*args: Any, **options: Any) -> Any:
        done = await change_soon(*args, **options)
        committed.set()
        await may_answer.wait()
        return done

    async def read_late(function: Any, *args: Any) -> Any:
        if not asking:
            asking.append(asyncio.create_task(ask(client, action=action)))
            await committed.wait()
        return await read(function, *args)

    with monkeypatch.context() as patch:
        patch.setattr(gateway.store, "change_soon", answer_late)
        patch.setattr(gateway.store.database, "read", read_late)
        await gateway._reconciliation.connections()
    may_answer.set()
    assert (await asking[0])["status"] == "ok"
    assert socket.ended is None
    assert list(await attached(gateway)) == ([socket.sid] if action == "initialize" else [])


async def test_who_is_being_attached_when_its_time_for_that_is_over_stays(gateway: Gateway) -> None:
    client, socket = await connect(gateway)

    async def run_out(session_id: UUID) -> None:
        client._end_unattached()
        await asyncio.gather(*gateway._tasks._spawned)

    gateway.store.after_attach = run_out  # type: ignore[attr-defined]
    assert (await ask(client, action="initialize"))["status"] == "ok"
    assert socket.ended is None


async def test_who_was_detached_and_does_not_know_it_yet_does_not_act(gateway: Gateway) -> None:
    stop_reconciling(gateway)
    client, socket = await connect(gateway)
    await ask(client, action="initialize")
    await gateway.store.change(lifecycle.detach, socket.sid, "gone")
    answer = await ask(client, action="message", args={"content": "late"})
    assert (answer["error_code"], answer["reason"]) == (409, "not_attached")


async def test_strangers_may_use_the_same_client_id(gateway: Gateway) -> None:
    owner, _ = await connect(gateway)
    session_id = (await ask(owner, action="initialize"))["session_id"]
    guest, _ = await connect(gateway)
    token = issue_token(Session(pk=UUID(session_id), token_version=1), Role.EDITOR)
    await ask(guest, action="initialize", token=token)
    said: dict[str, Any] = {"action": "message", "args": {"content": "hello"}, "client_id": "1"}
    numbers = [(await ask(client, **said))["id"] for client in (owner, guest, owner)]
    assert numbers == [0, 1, 0]


async def test_a_gateway_ends_connections_whose_token_was_revoked(gateway: Gateway) -> None:
    """No worker is needed for this."""
    client, socket = await connect(gateway)
    session_id = (await ask(client, action="initialize"))["session_id"]
    await gateway.store.change(Session.objects.filter(pk=session_id).update, token_version=2)
    await socket.wait(lambda: socket.ended, "the end")
    assert socket.ended == ("revoked", False)
    assert await is_alone(gateway)


async def test_who_waits_too_long_for_a_worker_is_told_once_each_time(gateway: Gateway) -> None:
    stop_reconciling(gateway)
    clock = FakeClock()
    with database_clock(clock):
        client, socket = await connect(gateway)
        session_id = UUID((await ask(client, action="initialize"))["session_id"])

        async def look() -> int:
            await gateway._reconciliation.logs([session_id])
            return sum('"no_worker"' in packet for packet in socket.packets)

        clock.advance(conf.START_TIMEOUT)
        assert await look() == 0
        clock.advance(0.1)
        assert [await look(), await look()] == [1, 1]
        worker = await gateway.store.change(leases.register, Process.Kind.WORKER)
        assert await gateway.store.change(lifecycle.claim, session_id, worker)
        assert await look() == 1
        await gateway.store.change(lifecycle.hand_over, session_id, worker, "it stops")
        clock.advance(conf.START_TIMEOUT + 0.1)
        assert await look() == 2


# The layer


class BadLayer(InMemoryChannelLayer):
    """A layer whose changes of groups fail while `failing` and hang while `hanging`."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = self.hanging = False
        self.broken_receives = 0
        self.changes: list[tuple[str, str]] = []

    async def _misbehave(self, what: str, group: str) -> None:
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing:
            raise ConnectionError("the layer is away")
        self.changes.append((what, group))

    async def group_add(self, group: str, channel: str) -> None:
        await self._misbehave("add", group)
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self._misbehave("discard", group)
        await super().group_discard(group, channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        if self.broken_receives:
            self.broken_receives -= 1
            self.groups.clear()  # a layer that is back after a failure may remember nothing
            raise ConnectionError("the layer is away")
        message: dict[str, Any] = await super().receive(channel)
        return message


@pytest.fixture
async def listening(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[BadLayer, Subscriptions, Any, Any]]:
    """Yield a layer, subscriptions that listen to it, the wanted sessions, and the messages heard."""
    monkeypatch.setattr(subscriptions_module, "LAYER_TIMEOUT", 0.1)
    monkeypatch.setattr(subscriptions_module, "LAYER_PAUSE_MOST", 0.01)
    layer = BadLayer()
    monkeypatch.setattr(subscriptions_module, "get_channel_layer", lambda: layer)
    wanted: dict[UUID, None] = {}
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def hear(message: dict[str, Any]) -> None:
        if message["type"] == "nonsense":
            raise ValueError(message)
        heard.put_nowait(message)

    subscriptions = Subscriptions(wanted.keys(), hear)
    task = asyncio.create_task(subscriptions.listen())
    await until(lambda: subscriptions._channel, "listening")
    yield layer, subscriptions, wanted, heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def hears(listening: Any, session_id: UUID) -> bool:
    """Return whether a message to a session's group arrives before a later one to the channel itself."""
    layer, subscriptions, _, heard = listening
    mark, end = uuid4().hex, uuid4().hex
    await layer.group_send(session_group(session_id), {"type": "x", "mark": mark})
    await layer.send(subscriptions._channel, {"type": "x", "mark": end})
    marks: list[str] = []
    async with asyncio.timeout(LIMIT):
        while end not in marks:
            marks.append((await heard.get())["mark"])
    return mark in marks


async def test_two_tasks_that_renew_at_once_leave_the_same_groups_without_an_error() -> None:
    """One task listens after an error of the layer, and the other one renews at intervals."""
    wanted: dict[UUID, None] = dict.fromkeys([uuid4(), uuid4()])
    subscriptions = Subscriptions(wanted.keys(), lambda message: None)
    layer: Any = InMemoryChannelLayer()
    subscriptions._layer = layer
    subscriptions._channel = await layer.new_channel()
    leave, left = layer.group_discard, []

    async def leave_late(group: str, channel: str) -> None:
        await asyncio.sleep(0)
        await leave(group, channel)
        left.append(group)

    layer.group_discard = leave_late
    await subscriptions.renew()
    groups = sorted(map(session_group, wanted))
    assert sorted(layer.groups) == groups
    wanted.clear()
    await asyncio.gather(subscriptions.renew(), subscriptions.renew())
    assert (sorted(left), layer.groups) == (groups, {})


async def subscribed(listening: Any) -> UUID:
    """Return a session that the subscriptions listen to."""
    _, subscriptions, wanted, _ = listening
    one = uuid4()
    wanted[one] = None
    assert await subscriptions.try_subscribe(one)
    return one


async def test_a_layer_that_was_away_is_subscribed_to_when_it_is_back(listening: Any) -> None:
    layer, subscriptions, wanted, _ = listening
    one = uuid4()
    wanted[one] = None
    for name in ("failing", "hanging"):
        setattr(layer, name, True)
        assert not await subscriptions.try_subscribe(one)
        await subscriptions.renew()
        setattr(layer, name, False)
    assert not await hears(listening, one)
    await subscriptions.renew()
    assert await hears(listening, one)


async def test_groups_that_nobody_wants_are_left_and_joined_again_when_wanted(listening: Any) -> None:
    layer, subscriptions, wanted, _ = listening
    one = uuid4()
    wanted[one] = None
    assert await subscriptions.try_subscribe(one)
    assert await subscriptions.try_subscribe(one)
    assert len(layer.changes) == 1
    del wanted[one]
    await subscriptions.renew()
    assert not await hears(listening, one)
    wanted[one] = None
    assert await subscriptions.try_subscribe(one)
    assert await hears(listening, one)


async def test_a_group_that_is_wanted_again_while_it_is_left_is_joined_again(
    listening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, subscriptions, wanted, _ = listening
    one = await subscribed(listening)
    discard = layer.group_discard

    async def discard_late(group: str, channel: str) -> None:
        wanted[one] = None
        assert await subscriptions.try_subscribe(one)
        await discard(group, channel)

    monkeypatch.setattr(layer, "group_discard", discard_late)
    del wanted[one]
    await subscriptions.renew()
    assert await hears(listening, one)


async def test_who_has_left_its_groups_for_good_joins_none(listening: Any) -> None:
    layer, subscriptions, *_ = listening
    await subscriptions.end()
    assert not await subscriptions.try_subscribe(uuid4())
    assert not layer.groups


async def test_a_gateway_that_stops_leaves_its_groups_for_good(gateway: Gateway) -> None:
    layer: Any = get_channel_layer()
    _, first = await connect(gateway)
    await ask(gateway.clients[first.sid], action="initialize")
    assert layer.groups
    await gateway.stop("the test wants it")
    assert not layer.groups
    _, late = await connect(gateway)
    await ask(gateway.clients[late.sid], action="initialize")
    assert not layer.groups


async def test_a_layer_that_fails_while_it_is_listened_to_is_listened_to_again(listening: Any) -> None:
    layer, *_ = listening
    one = await subscribed(listening)
    layer.broken_receives = 3
    assert await hears(listening, one)  # the message wakes it from the receive that still works
    await until(lambda: len(layer.changes) == 4, "its subscription, again after each failure")
    assert await hears(listening, one)


async def test_a_message_that_cannot_be_heard_does_not_end_the_listening(
    listening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    layer, *_ = listening
    one = await subscribed(listening)
    await layer.group_send(session_group(one), {"type": "nonsense"})
    assert await hears(listening, one)
    assert "A message of type 'nonsense' was not handled" in caplog.text


# Known secrets in messages of clients


def user_events(session_id: UUID) -> list[Event]:
    return list(Event.objects.filter(session=session_id, source="user").order_by("number"))


async def test_a_known_secret_in_an_action_is_neither_stored_nor_sent_and_the_runtime_gets_it(
    gateway: Gateway,
) -> None:
    client, socket = await connect(gateway)
    answer = await ask(client, action="initialize", args={"LLM_API_KEY": 'sk-"5b1f"'}, github_token="gh-7c2a")
    session_id = UUID(answer["session_id"])
    args = {"command": 'use sk-"5b1f" or gh-7c2a', "list": ["gh-7c2a", 1]}
    done = await ask(client, action="run", args=args, client_id="c1")
    assert await ask(client, action="run", args=args, client_id="c1") == done
    other = await ask(client, action="run", args={**args, "command": "use gh-7c2a"}, client_id="c1")
    assert other["reason"] == "client_id_reused"
    (event,) = await gateway.store.database.read(user_events, session_id)
    content = json.loads(event.data)
    assert content["args"] == {"command": "use <secret> or <secret>", "list": ["<secret>", 1]}
    assert content["message"] == "Running command: use <secret> or <secret>"
    action, _ = await gateway.store.database.read(journal.read_action, session_id, event.number)
    assert (action.args, action.hidden) == (args, False)
    await socket.wait(lambda: event.data in "".join(socket.packets), "the event")
    assert not [secret for secret in ("5b1f", "7c2a") if secret in "".join(socket.packets)]


async def test_a_secret_that_another_gateway_was_told_is_cut_out_at_once(gateway: Gateway) -> None:
    stop_reconciling(gateway)
    client, _ = await connect(gateway)
    session_id = UUID((await ask(client, action="initialize"))["session_id"])
    before = await ask(client, action="message", args={"content": "I say gh-7c2a"}, client_id="c1")

    def renew() -> None:
        row = Session.objects.get(pk=session_id)
        vault.renew(row, {"github_token": "gh-7c2a"})
        row.save(update_fields=["secrets", "secrets_version"])

    await gateway.store.change(renew)
    again = await ask(client, action="message", args={"content": "I say gh-7c2a"}, client_id="c1")
    assert again == before, "the same action, though it was stored in clear"
    await ask(client, action="message", args={"content": "Now gh-7c2a"})
    _, event = await gateway.store.database.read(user_events, session_id)
    assert json.loads(event.data)["args"] == {"content": "Now <secret>"}


async def test_a_session_without_secrets_costs_no_read_and_one_with_secrets_one_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = vault.read, []

    def counted(session_id: UUID) -> Any:
        reads.append(session_id)
        return read(session_id)

    monkeypatch.setattr(vault, "read", counted)
    client, _ = await connect(gateway)
    for token, expected in ((None, 0), ("gh-7c2a", 1)):
        answer = await ask(client, action="initialize", github_token=token)
        for number in range(3):
            await ask(client, action="message", args={"content": str(number)})
        assert reads.count(UUID(answer["session_id"])) == expected
