"""A gateway and two workers in one event loop, which can be stopped at any one of their transactions."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID, uuid4

from channels.layers import get_channel_layer

from ohsessions.core.clock import FakeClock
from ohsessions.core.errors import Unavailable
from ohsessions.core.runtime import JSON, Action, Runtime
from ohsessions.database import Database
from ohsessions.gateway.gateway import Gateway
from ohsessions.models import Connection, Session
from ohsessions.processes.store import Store
from ohsessions.socketio import SocketIOConsumer, SocketIOServer
from ohsessions.testing import SocketIOClient
from ohsessions.worker.worker import SessionWorker
from tests.tasks import kind, told

LIMIT = 20.0
UNHURRIED = 0.2
"""Seconds until an unfinished task is considered to wait for the stopped transaction."""
IDLE_GATEWAY = Counter(
    {
        "Gateway._reconcile_for_ever": 1,
        "Gateway._renew_subscriptions_for_ever": 1,
        "InMemoryChannelLayer.receive": 1,
        "Membership.keep": 1,
        "Reaper.look_for_ever": 1,
        "Reaper.take_over_for_ever": 1,
        "Subscriptions.listen": 1,
        "Wakeups.probe_for_ever": 1,
    }
)
"""Tasks of a gateway without clients, by their jobs. Declared, since a count during its start misses some."""
IDLE_WORKER = Counter(
    {
        "InMemoryChannelLayer.receive": 2,
        "LayerWorker.handle": 1,
        "LayerWorker.listener": 2,
        "Membership.keep": 1,
        "Membership.wait_rejoined": 1,
        "Reaper.look_for_ever": 1,
        "Reaper.take_over_for_ever": 1,
        "SessionWorker._listen_for_ever": 1,
        "SessionWorker._repeat": 5,
        "Wakeups.probe_for_ever": 1,
    }
)
"""Tasks of a worker without sessions, by their jobs."""
LARGE = "x" * 70_000
"""A snapshot with this text is stored in a file."""

SURROUNDINGS = frozenset({"register", "renew", "living", "mark_gone", "begin_drain", "gone_with_leftovers"})
"""Functions that every process calls all the time, independent of any session."""
PERIODIC = frozenset({"due", "wanted", "owned_by", "strays", "_connections", "_heads", "presence"})
"""Functions that read periodically: their first call in a scenario stands for all."""


async def until(true: Callable[[], Any], what: Callable[[], Any] | str) -> None:
    """Wait until a function, or the awaitable that it returns, gives a true value.

    `what` names the condition. It may also be a function, of the same kind, that describes the state in which
    the condition did not become true.
    """
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                found = true()
                if await found if inspect.isawaitable(found) else found:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        found = what() if callable(what) else what
        told = await found if inspect.isawaitable(found) else found
        raise AssertionError(f"did not come true: {told}") from None


# Transactions


class When(Enum):
    BEFORE = "before"
    """The call stops before its transaction."""
    AFTER = "after"
    """The call stops after the commit, before anybody knows of it."""
    REFUSED = "refused"
    """The database is away."""
    LOST = "lost"
    """The database goes away after the commit, before it has answered."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The `occurrence`-th call, from 0, of a function of lifecycle or journal."""

    name: str
    occurrence: int


class GatedDatabase(Database):
    """A database that stops one call at a boundary until `opened`, and records the boundaries it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.arm()

    def arm(self, boundary: Boundary | None = None, when: When = When.BEFORE) -> None:
        """Set the boundary of the next stop, and begin to count again."""
        self._at, self._when = boundary, when
        self._counts: Counter[str] = Counter()
        self.seen: list[Boundary] = []
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def look(self, function: Callable[..., Any], *args: Any) -> Any:
        """Read for the test itself, without any stop."""
        return await super().read(function, *args)

    async def read(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._pass(function, lambda: Database.read(self, function, *args, **kwargs))

    async def write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._pass(function, lambda: Database.write(self, function, *args, **kwargs))

    async def try_write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._pass(function, lambda: Database.try_write(self, function, *args, **kwargs))

    async def write_within(self, limit: float, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._pass(
            function, lambda: Database.write_within(self, limit, function, *args, **kwargs)
        )

    async def write_gathered(self, commit: Any, value: Any, limit: float | None = None) -> Any:
        return await self._pass(commit, lambda: Database.write_gathered(self, commit, value, limit))

    async def _pass(self, function: Any, transaction: Callable[[], Awaitable[Any]]) -> Any:
        name = getattr(function, "func", function).__name__
        boundary = Boundary(name, self._counts[name])
        self._counts[name] += 1
        if name not in SURROUNDINGS and not (name in PERIODIC and boundary.occurrence):
            self.seen.append(boundary)
        if boundary != self._at:
            return await transaction()
        if self._when is When.REFUSED:
            self.reached.set()
            raise Unavailable
        if self._when is When.BEFORE:
            await self._stop()
        done = await transaction()
        if self._when is When.AFTER:
            await self._stop()
        if self._when is When.LOST:
            self.reached.set()
            raise Unavailable
        return done

    async def _stop(self) -> None:
        self.reached.set()
        async with asyncio.timeout(LIMIT):
            await self.opened.wait()


# The runtime


class Counted(Runtime):
    """A runtime that answers each action, has a snapshot in a file, and records its calls."""

    lives: ClassVar[list[Counted]] = []
    released: ClassVar[asyncio.Event]
    """Event that ends the action `wait`: an interrupt sets it, or the end of the test."""

    def __init__(self, context: Any, **options: Any) -> None:
        super().__init__(context, **options)
        self.notes: list[str] = []
        self.alone = True
        self.handled: list[int] = []
        self.lives.append(self)

    @property
    def alive(self) -> bool:
        return self.notes == ["start"]

    async def start(self, snapshot: JSON) -> None:
        others = [one for one in self.lives if one.context.session_id == self.context.session_id]
        self.alone = not any(one.alive for one in others)
        self.notes.append("start")
        assert snapshot is None or snapshot["text"] == LARGE

    async def handle(self, action: Action) -> None:
        self.handled.append(action.id)
        if action.type == "wait":
            await self.released.wait()
        self.context.checkpoint({"text": LARGE, "by": action.id})
        await self.context.emit(observation="answer", content="", cause=action.id)

    async def interrupt(self, action: Action) -> None:
        self.released.set()

    async def passivate(self) -> JSON:
        return {"text": LARGE}

    async def close(self) -> None:
        self.notes.append("close")


# Clients


class Visitor(SocketIOClient):
    """A client that records acknowledged actions."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.application, timeout=LIMIT)
        self._site = site
        self.acknowledged: list[tuple[str, int]] = []
        """Session and number of each action."""
        site.visitors.append(self)

    async def ask(self, action: str, **payload: Any) -> dict[str, Any]:
        """Return the acknowledgement, or nothing if the connection ends before it comes.

        Like every client, it asks again while the database is away.
        """
        payload.setdefault("client_id", f"the action {uuid4().hex}")
        answer = {"reason": "unavailable"}
        while answer.get("reason") == "unavailable":
            try:
                answer = await self.call("oh_action", {"action": action, **payload})
            except ConnectionError:
                return {}
        if isinstance(answer.get("id"), int):
            self.acknowledged.append((self.session_id, answer["id"]))
        return answer

    @property
    def streams(self) -> list[list[int]]:
        """Return the numbers of the events that came after each first answer."""
        found: list[list[int]] = []
        for event in self.events:
            if "token" in event:
                found.append([])
            elif isinstance(event.get("id"), int):
                found[-1].append(event["id"])
        return found

    async def settle(self) -> None:
        """Wait until its session has nothing to do, or is gone."""

        async def is_settled() -> bool:
            return self.closed or await self._site.is_settled()

        await until(is_settled, "a session that runs and has nothing to do")

    def cancel_work(self) -> None:
        """Cancel all work for this client, as a server does that has lost its patience."""
        for task in asyncio.all_tasks():
            if self.sid and task.get_name() == f"socket {self.sid}":
                task.cancel()


# The whole site


class Site:
    """A site of one gateway and two workers, from `start` to `stop`."""

    def __init__(self, database: GatedDatabase, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.store = Store(database)
        self.gateway = Gateway(self.store)
        self.workers = [SessionWorker(self.store) for _ in range(2)]
        self.stopped: list[Any] = []
        self.visitors: list[Visitor] = []
        self.server = SocketIOServer(
            self.gateway.accept, settings=self.gateway.engine_settings, admit=lambda scope: None
        )
        self.application = SocketIOConsumer.as_asgi(server=self.server)

    async def start(self) -> None:
        self._others = asyncio.all_tasks()
        Counted.lives.clear()
        Counted.released = asyncio.Event()
        await get_channel_layer().flush()
        for process in (self.gateway, *self.workers):
            await process.start()
        await until(lambda: not self._idle() - self._tasks(), lambda: f"its start; {self._missing()}")

    def _idle(self) -> Counter[str]:
        """Return the tasks that its processes have while they have nothing to do."""
        gateways = 0 if self.gateway in self.stopped else 1
        return sum([IDLE_GATEWAY] * gateways + [IDLE_WORKER] * len(self._working()), Counter[str]())

    def _working(self) -> list[SessionWorker]:
        return [worker for worker in self.workers if worker not in self.stopped]

    def _tasks(self) -> Counter[str]:
        """Return how many tasks the site has for each job."""
        return Counter(kind(task) for task in asyncio.all_tasks() - self._others)

    def _missing(self) -> str:
        return f"tasks that are missing: {dict(self._idle() - self._tasks())}"

    async def visitor(self) -> Visitor:
        visitor = Visitor(self)
        with suppress(ConnectionError):
            await visitor.connect()
        return visitor

    async def sessions(self) -> list[Session]:
        sessions: list[Session] = await self.database.look(lambda: list(Session.objects.order_by("pk")))
        return sessions

    async def session(self) -> Session | None:
        """Return the session that is first by its primary key."""
        return next(iter(await self.sessions()), None)

    async def is_settled(self) -> bool:
        """Return whether there are sessions, and each runs or sleeps and has nothing to do."""
        sessions = await self.sessions()
        settled = ("running", "passivated", "closed")
        return bool(sessions) and all(s.state in settled and not s.has_pending_work for s in sessions)

    async def goes_on_without(self, worker: UUID) -> bool:
        """Let time pass, and return whether all sessions are settled and none belongs to this worker."""
        self.clock.advance(1)
        return all(s.state != "starting" and s.worker_id != worker for s in await self.sessions())

    async def owner(self) -> SessionWorker:
        """Return the worker of the session, or the first worker."""
        session = await self.session()
        for worker in self.workers:
            if session is not None and worker._membership.process_id == session.worker_id:
                return worker
        return self.workers[0]

    async def sleeps_or_is_visited(self) -> bool:
        return await self.sleeps() or not all(visitor.closed for visitor in self.visitors)

    async def sleeps(self) -> bool:
        """Let time pass, and return whether all sessions sleep."""
        self.clock.advance(10)
        asleep = ("passivated", "closed")
        return all(one.state in asleep and not one.has_pending_work for one in await self.sessions())

    async def everybody_leaves(self) -> None:
        for visitor in self.visitors:
            await visitor.leave()

    def leftovers(self) -> dict[str, Any]:
        """Return everything that its processes hold though it has no client and its sessions sleep."""
        # A worker makes its consumers when it hears the first message.
        consumers = Counter({"WakeupConsumer": IDLE_WORKER["LayerWorker.listener"] * len(self._working())})
        too_many = self._tasks() - self._idle() - consumers
        tasks = asyncio.all_tasks() - self._others
        found = {
            "clients": [str(client) for client in self.gateway.clients],
            "pumps": [str(session_id) for session_id in self.gateway._pumps],
            "groups": list(get_channel_layer().groups),
            "hosts": [
                f"session {host.session_id} (epoch {host.epoch}) in worker {worker._membership.process_id}"
                for worker in self.workers
                for host in worker._hosted
            ],
            "tasks": {
                f"{number} of these too many: {what}": [told(task) for task in tasks if kind(task) == what]
                for what, number in too_many.items()
            },
        }
        return {what: left for what, left in found.items() if left}

    async def report(self) -> str:
        """Return a description of all leftovers and rows, for a test that waits for the end in vain."""
        rows = [f"session {one.pk}: {told_row(one)}" for one in await self.sessions()]
        connections = await self.database.look(lambda: list(Connection.objects.filter(ended_at=None)))
        rows += [f"open connection {one.sid}: {told_row(one)}" for one in connections]
        processes = [f"{type(one).__name__} {one._membership.process_id}" for one in self.workers]
        processes.append(f"gateway {self.gateway._membership.process_id}")
        stopped = [type(one).__name__ for one in self.stopped]
        lines = [*processes, f"stopped: {stopped}", *rows]
        lines += [f"left over: {what}: {left}" for what, left in self.leftovers().items()]
        return "\n  ".join(lines)

    async def stop_gateway(self) -> None:
        """Stop the gateway as ohsessions.routing does."""
        await self.gateway.stop("draining")
        await self.server.close("draining")
        self.stopped.append(self.gateway)

    async def stop(self) -> None:
        if self.gateway not in self.stopped:
            await self.stop_gateway()
        for worker in self.workers:
            if worker not in self.stopped:
                await worker.stop("the test is over")
        for visitor in self.visitors:
            await visitor.wait_ended()


def told_row(row: Session | Connection) -> str:
    fields = (
        "state",
        "reason",
        "epoch",
        "worker_id",
        "passivate_at",
        "forced_by",
        "session_id",
        "gateway_id",
    )
    return ", ".join(f"{name}={getattr(row, name)}" for name in fields if hasattr(row, name))
