"""The reference site as a real process, which is started, stopped and killed; and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import socketio

from tests.requirements import free_port, wait_until

ROOT = Path(__file__).parents[2]
LIMIT = 15.0
SECRET_KEY = "for tests only"
"""The key of tests.settings, too, so that a test can sign tokens as the site does."""
_migrated: dict[str, bytes] = {}
"""The empty database after all migrations, made once."""


RUNTIMES = {
    "shell": {"BACKEND": "ohsessions.runtimes.shell.ShellRuntime"},
    "echo": {"BACKEND": "ohsessions.runtimes.echo.EchoRuntime"},
}


class Site:
    """A process with gateway and worker, on SQLite. `settings` are OHSESSIONS, `environment` the rest."""

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = folder / "db.sqlite3"
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        options = {"WORKSPACE_ROOT": str(folder / "workspaces"), "RUNTIMES": RUNTIMES} | settings
        # The developer's environment must not change what is tested.
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OHSESSIONS_", "DJANGO_", "DATABASE_URL", "REDIS_URL"))
        }
        self.environment = clean | {
            "DJANGO_DEBUG": "1",
            "DJANGO_SECRET_KEY": SECRET_KEY,
            "DJANGO_MEDIA_ROOT": str(folder / "files"),
            "DATABASE_URL": f"sqlite:///{self.database}",
            **{f"OHSESSIONS_{name}": json.dumps(value) for name, value in options.items()},
            **(environment or {}),
        }

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Start the server, on the same port each time, and wait until it answers."""
        self.prepare()
        command = [sys.executable, "manage.py", "ohsessions", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        wait_until(self._answers, "the site answering /healthz")

    def prepare(self) -> None:
        """Make the database, once."""
        if self.database.exists():
            return
        if not _migrated:
            self.manage("migrate", "--verbosity", "0")
            _migrated["sqlite"] = self.database.read_bytes()
        self.database.write_bytes(_migrated["sqlite"])

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthz", timeout=2).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def stop(self) -> int:
        """Stop the server in order, and return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(timeout=30)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Query the database. Ids are stored as 32 hexadecimal digits."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=20)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, *parameters: Any) -> None:
        """Change the database directly, without the site."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=20)) as connection, connection:
            connection.execute(sql, parameters)

    def state(self, session_id: str) -> str:
        row = self.query("SELECT state FROM ohsessions_session WHERE id = ?", session_id.replace("-", ""))
        return str(row[0][0])


class Client:
    """python-socketio's client. It keeps what it got: `events` are the stored ones, `others` the rest."""

    def __init__(self, url: str, transport: str = "websocket", **options: Any) -> None:
        self.url = url
        self.transport = transport
        self.events: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.notices: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self.socket = socketio.AsyncClient(reconnection=False, **options)
        self.socket.on("oh_event", self._on_event)
        self.socket.on("oh_notice", self._on_notice)

    async def _on_event(self, data: dict[str, Any]) -> None:
        if "session_id" in data and "token" in data:
            self.answers.append(data)
        elif isinstance(data.get("id"), int):
            self.events.append(data)
        else:
            self.others.append(data)
        self._changed.set()

    async def _on_notice(self, data: dict[str, Any]) -> None:
        self.notices.append(data)
        self._changed.set()

    async def connect(self) -> Client:
        await self.socket.connect(self.url, transports=[self.transport])
        return self

    async def initialize(self, runtime: str | None = None, **payload: Any) -> dict[str, Any]:
        """Send INIT, and return its acknowledgement."""
        args = payload.pop("args", {})
        if runtime is not None:
            args = args | {"runtime": runtime}
        return await self.act("initialize", args, **payload)

    async def act(self, action: str, args: dict[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
        """Send an action, and return its acknowledgement."""
        return await self.send({"action": action, "args": args or {}} | payload)

    async def send(self, *payload: Any) -> dict[str, Any]:
        """Send anything as oh_action, and return the acknowledgement."""
        data = payload[0] if len(payload) == 1 else payload
        answer: dict[str, Any] = await self.socket.call("oh_action", data, timeout=LIMIT)
        return answer

    @property
    def session_id(self) -> str:
        return str(self.answers[-1]["session_id"])

    @property
    def token(self) -> str:
        return str(self.answers[-1]["token"])

    @property
    def numbers(self) -> list[int]:
        return [event["id"] for event in self.events]

    async def wait(self, found: Callable[[], Any], what: str, limit: float | None = None) -> Any:
        """Wait until `found` returns a true value, and return it.

        Raises TimeoutError after `limit` seconds. Without a limit it is raised when nothing came for LIMIT
        seconds, since a slow machine delivers slowly.
        """
        try:
            async with asyncio.timeout(limit):
                while not (result := found()):
                    self._changed.clear()
                    async with asyncio.timeout(LIMIT if limit is None else None):
                        await self._changed.wait()
                return result
        except TimeoutError:
            tail = str([*self.events[-5:], *self.others[-3:], *self.notices[-3:]])[:2000]
            raise TimeoutError(
                f"{what} did not come within {limit or LIMIT} s; the last was {tail}"
            ) from None

    async def wait_for(self, limit: float | None = None, **fields: Any) -> dict[str, Any]:
        """Wait for a stored event with these fields. `extras__name` is a key of extras."""

        seen = 0

        def find() -> dict[str, Any] | None:
            nonlocal seen
            new, seen = self.events[seen:], len(self.events)  # else ten thousand take a minute
            return next((event for event in new if _matches(event, fields)), None)

        event: dict[str, Any] = await self.wait(find, f"an event with {fields}", limit)
        return event

    async def wait_state(self, agent_state: str, limit: float | None = None) -> dict[str, Any]:
        return await self.wait_for(limit, extras__agent_state=agent_state)

    async def output(self, cause: int, limit: float | None = None) -> tuple[str, int]:
        """Return the whole output of a shell command and its exit code."""

        def parts() -> list[dict[str, Any]]:
            return [e for e in self.events if e.get("observation") == "run" and e.get("cause") == cause]

        await self.wait(
            lambda: any(part["extras"]["exit_code"] != -1 for part in parts()), f"the end of {cause}", limit
        )
        return "".join(part["content"] for part in parts()), parts()[-1]["extras"]["exit_code"]

    async def close(self) -> None:
        await self.socket.disconnect()


def _matches(event: dict[str, Any], fields: dict[str, Any]) -> bool:
    return all(_field(event, name) == value for name, value in fields.items())


def _field(event: dict[str, Any], name: str) -> Any:
    value: Any = event
    for part in name.split("__"):
        value = value.get(part) if isinstance(value, dict) else None
    return value
