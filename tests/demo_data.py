"""A database as it looks after a busy week: every state, every kind of trouble, long and short logs.

It is for screenshots, and for tests that need many and varied rows. The same seed makes the same rows. They
are written directly, without the rules of the life cycle: their numbers agree, but no process works for them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.utils import timezone

from ohsessions.access import encrypt
from ohsessions.core import wire
from ohsessions.models import Connection, Event, Process, Session, Transition

TITLES = (
    "Fix the flaky checkout test",
    "Why is the nightly import slow?",
    "Upgrade to Django 5.2",
    "Draft release notes for 4.1",
    "Rename the billing module without breaking the public API or any of the seventeen places that import it",
    "Größenänderung der Vorschaubilder",
    "在生产环境中调查内存泄漏",
    "<script>alert('title')</script>",
    "",
)
COMMANDS = (
    "git status",
    "pytest -q",
    "ls -la src",
    "rg TODO --stats",
    "make build && make check",
    "cat README.md",
)
OUTPUTS = (
    "On branch main\nnothing to commit, working tree clean",
    "........................................ 40 passed in 3.21s",
    "total 48\ndrwxr-xr-x 6 ann ann 4096 Mar  1 09:30 .\n-rw-r--r-- 1 ann ann 1210 Mar  1 09:30 main.py",
    "error: could not compile `core` (lib) due to 2 previous errors",
    '<b>not bold</b> & "quoted"',
)
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Safari/604.1",
    "ohsessions-client/0.1 Python/3.11",
)
STATES = ("running",) * 5 + ("passivated",) * 9 + ("starting", "passivating", "failed", "closed", "closed")
AWAKE = ("starting", "running", "passivating")
SECRET = "sk-demo-do-not-show-7f3a"
"""A secret in the settings, the secrets, a snapshot and hidden arguments. A page that shows it has a leak."""


@dataclass(slots=True)
class Demo:
    """The rows that were made, by the names that tests and screenshots use."""

    now: datetime
    users: list[Any] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    gateways: list[Process] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    busy: Session = field(default_factory=Session)
    """Running, with two connections and an action that is being handled."""
    overdue: Session = field(default_factory=Session)
    """Running, and due for passivation for minutes. Nothing in its row postpones the passivation."""
    unowned: Session = field(default_factory=Session)
    """Starting, without a worker that takes it."""
    failed: Session = field(default_factory=Session)
    """Crashed beyond its budget."""
    asleep: Session = field(default_factory=Session)
    closed: Session = field(default_factory=Session)


def fill(*, sessions: int = 60, most_events: int = 120, now: datetime | None = None, seed: int = 7) -> Demo:
    """Fill all five tables.

    `sessions` is the number of sessions besides the named ones. The busy session gets `most_events` events.
    """
    maker = _Maker(random.Random(seed), Demo(now or timezone.now()))
    maker.make_people_and_processes()
    maker.make_named(most_events)
    for _ in range(sessions):
        maker.make_any()
    return maker.demo


class _Maker:
    def __init__(self, rng: random.Random, demo: Demo) -> None:
        self.rng = rng
        self.demo = demo

    def ago(self, seconds: float) -> datetime:
        return self.demo.now - timedelta(seconds=seconds)

    def make_people_and_processes(self) -> None:
        users = get_user_model().objects
        self.demo.users = [users.create_user(name) for name in ("ann", "bob", "carla", "dmitri")]
        self.demo.workers = [
            self.process("worker", "active", "agents-1", 4021),
            self.process("worker", "active", "agents-2", 977),
            self.process("worker", "draining", "agents-3", 31337),
            self.process("worker", "gone", "agents-2", 411, seen=7200),
        ]
        self.demo.gateways = [
            self.process("gateway", "active", "web-1.example.net", 812),
            self.process("gateway", "active", "web-2.example.net", 1290, seen=14),
            self.process("gateway", "gone", "web-1.example.net", 101, seen=90_000),
        ]

    def process(self, kind: str, state: str, host: str, pid: int, seen: float = 1) -> Process:
        started = self.ago(seen + self.rng.randrange(3600, 400_000))
        return Process.objects.create(
            id=self.uuid(),
            kind=kind,
            state=state,
            host=host,
            pid=pid,
            birth=f"{self.uuid()}/4026531836/{self.rng.randrange(10**6)}",
            version="0.1.0",
            heartbeat=self.rng.randrange(1000, 90_000),
            load=0 if state == "gone" else self.rng.randrange(1, 40),
            started_at=started,
            seen_at=self.ago(seen),
        )

    def uuid(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128), version=4)

    def make_named(self, most_events: int) -> None:
        demo = self.demo
        demo.busy = self.session("running", TITLES[0], owner=demo.users[0], worker=demo.workers[0], active=4)
        self.log(demo.busy, most_events, pending=True)
        self.connection(demo.busy, demo.users[0], "owner", behind=2)
        self.connection(demo.busy, demo.users[1], "editor", behind=0, agent=1)
        self.connection(demo.busy, None, "viewer", ended="gateway_lost")
        demo.overdue = self.session("running", TITLES[1], worker=demo.workers[1], due=-260, active=300)
        self.log(demo.overdue, 30)
        demo.unowned = self.session("starting", TITLES[2], reason="its worker is gone", active=40)
        self.log(demo.unowned, 12, pending=True)
        self.connection(demo.unowned, demo.users[2], "owner", behind=12)
        demo.failed = self.session(
            "failed",
            TITLES[3],
            reason="RuntimeFailure: the container image could not be pulled: 503 from the registry",
            crashes=3,
            retry=45,
            active=30,
        )
        self.log(demo.failed, 8)
        demo.asleep = self.session("passivated", TITLES[4], owner=demo.users[3], active=86_400 * 3)
        self.log(demo.asleep, 60, trimmed=20)
        demo.closed = self.session("closed", TITLES[5], reason="closed by its owner", active=86_400 * 20)
        self.log(demo.closed, 20)

    def make_any(self) -> None:
        rng, demo = self.rng, self.demo
        state = rng.choice(STATES)
        active = rng.choice((3, 50, 700, 9000, 90_000, 700_000)) * rng.uniform(0.5, 1.5)
        worker = rng.choice(demo.workers[:3]) if state in AWAKE else None
        session = self.session(
            state,
            rng.choice(TITLES),
            owner=rng.choice([*demo.users, None]),
            worker=worker,
            runtime=rng.choice(("shell", "shell", "echo")),
            active=active,
            crashes=1 if state == "starting" else 0,
            retry=2 if state == "starting" else None,
        )
        self.log(session, rng.choice((0, 2, 6, 15, 40)))
        for _ in range(rng.choice((0, 0, 1, 1, 3)) if state in ("running", "starting") else 0):
            self.connection(session, session.owner, "owner", behind=rng.choice((0, 0, 1)))
        for _ in range(rng.randrange(3)):
            self.connection(
                session, session.owner, "owner", ended=rng.choice(("client left", "slow", "operator"))
            )
        if state == "running" and not session.connections.filter(ended_at=None).exists():
            Session.objects.filter(pk=session.pk).update(passivate_at=self.ago(-rng.randrange(1, 15)))

    def session(
        self,
        state: str,
        title: str,
        *,
        active: float,
        owner: Any = None,
        worker: Process | None = None,
        runtime: str = "shell",
        reason: str = "",
        due: float | None = None,
        crashes: int = 0,
        retry: float | None = None,
    ) -> Session:
        reasons = {
            "running": "its runtime is ready",
            "starting": "a client attached",
            "passivating": "no connection for 15 s",
            "passivated": "no connection for 15 s",
            "failed": "RuntimeFailure: bash ended with exit code 137",
            "closed": "closed",
        }
        session = Session.objects.create(
            id=self.uuid(),
            owner=owner,
            title=title,
            runtime=runtime,
            state=state,
            reason=reason or reasons[state],
            settings={
                "agent": "CodeActAgent",
                "language": "en",
                "llm_model": "demo/large",
                "llm_base_url": f"https://ann:{SECRET}@llm.example.net/v1",
                "confirmation_mode": False,
                "proxy": {"Authorization": f"Bearer {SECRET}", "timeout": 30},
            },
            secrets=encrypt(wire.encode({"llm_api_key": SECRET})),
            epoch=self.rng.randrange(2, 9),
            worker=worker,
            passivate_at=None if due is None else self.ago(-due),
            crashes=crashes,
            retry_at=None if retry is None else self.ago(-retry),
            snapshot={"cwd": "/workspace", "env": {"KEY": SECRET}},
            created_at=self.ago(active + self.rng.randrange(60, 90_000)),
            state_at=self.ago(active * 0.8),
            active_at=self.ago(active),
        )
        self.transitions(session)
        self.demo.sessions.append(session)
        return session

    def transitions(self, session: Session) -> None:
        """Store transitions that end in the session's state."""
        worker = f"worker {session.worker_id or self.demo.workers[0].pk}"
        user = f"user {session.owner}" if session.owner else "anonymous user"
        round_trip = [
            ("starting", "a client attached", user),
            ("running", "its runtime is ready", worker),
            ("passivating", "no connection for 15 s", worker),
            ("passivated", "no connection for 15 s", worker),
        ]
        way = [("starting", "opened", user), *round_trip[1:]] + round_trip * self.rng.randrange(3)
        way += {
            "starting": round_trip[:1],
            "running": round_trip[:2],
            "passivating": round_trip[:3],
            "passivated": round_trip,
        }.get(session.state, [*round_trip[:2], (session.state, session.reason, worker)])
        step = (session.state_at - session.created_at) / len(way)
        origins = ["", *(target for target, _, _ in way)]
        Transition.objects.bulk_create(
            Transition(
                session=session,
                origin=origins[place - 1],
                target=target,
                reason=session.reason if place == len(way) else reason,
                by=by,
                epoch=place,
                at=session.created_at + step * place,
            )
            for place, (target, reason, by) in enumerate(way, start=1)
        )

    def log(self, session: Session, count: int, *, pending: bool = False, trimmed: int = 0) -> None:
        """Store actions and their observations in turn. With `pending` the last action is not handled yet."""
        rows, last, handled = [], -1, -1
        for number in range(count):
            at = session.active_at - timedelta(seconds=2 * (count - number - 1))
            is_action = number % 3 == 0 or (pending and number == count - 1)
            rows.append(self.event(session, number, at, cause=None if is_action else last))
            if is_action:
                handled, last = last, number
        if number_of_last_is_handled := not pending or not rows:
            handled = last
        Event.objects.bulk_create([row for row in rows if row.number >= trimmed])
        session.next_number, session.first_number = count, trimmed
        session.last_action_number, session.handled_number = last, handled
        session.started_number = last
        session.attempts = 0 if number_of_last_is_handled else 1
        session.save()

    def event(self, session: Session, number: int, at: datetime, *, cause: int | None) -> Event:
        hidden = None
        if cause is None and number % 9 == 6:
            kind, source = "run", "user"
            args = {"command": "", "hidden": True}
            body = wire.encode({"source": source, "message": "", "action": kind, "args": args})
            hidden = encrypt(wire.encode({"command": f"login --password {SECRET}", "hidden": True}))
        elif cause is None:
            kind, source, command = "run", "user", self.rng.choice(COMMANDS)
            message = f"Running command: {command}"
            body = wire.encode(
                {"source": source, "message": message, "action": kind, "args": {"command": command}}
            )
        elif number % 3 == 1:
            kind, source = "run", "agent"
            extras = {"command": self.rng.choice(COMMANDS), "exit_code": self.rng.choice((-1, 0, 0, 0, 1))}
            text = self.rng.choice(OUTPUTS)
            body = wire.event_body(observation=kind, content=text, extras=extras, cause=cause)
        else:
            kind, source = "agent_state_changed", "environment"
            body = wire.agent_state("awaiting_user_input")
        return Event(
            session=session,
            number=number,
            source=source,
            kind=kind,
            data=wire.stamp(body, number, at),
            write_key=f"{session.epoch}.{number}",
            hidden_text=hidden,
            created_at=at,
        )

    def connection(
        self, session: Session, user: Any, role: str, *, behind: int = 0, ended: str = "", agent: int = 0
    ) -> Connection:
        since = self.rng.randrange(20, 5000)
        gateway = (
            self.demo.gateways[2] if ended == "gateway_lost" else self.rng.choice(self.demo.gateways[:2])
        )
        return Connection.objects.create(
            sid=f"{self.rng.getrandbits(120):030x}",
            session=session,
            user=user,
            gateway=gateway,
            transport=self.rng.choice(("websocket", "websocket", "polling")),
            address=self.rng.choice(("203.0.113.7", "198.51.100.23", "2001:db8::17")),
            user_agent=AGENTS[agent],
            role=role,
            connected_at=self.ago(since + 2),
            attached_at=self.ago(since),
            ended_at=self.ago(since / 2) if ended else None,
            end_reason=ended,
            sent_number=session.next_number - 1 - behind,
        )
