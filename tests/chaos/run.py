"""One run: start everything, inject faults while clients act, wait for quiet, and look for leftovers."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from tests.chaos.actions import INTERRUPT
from tests.chaos.clients import ChaosClient
from tests.chaos.faults import Injector
from tests.chaos.history import History, Leftover, read_lines
from tests.chaos.observer import Observer
from tests.chaos.options import Options
from tests.chaos.processes import adopt_orphans, descendants
from tests.chaos.schedule import make_schedule
from tests.chaos.shared import make_session
from tests.chaos.site import Site
from tests.chaos.sockets import LibrarySocket, RawSocket

START_LIMIT = 60.0
UNHANDLED = f"""
SELECT id, state FROM ohsessions_session s WHERE last_action_number > handled_number OR EXISTS (
       SELECT FROM ohsessions_event e WHERE e.session_id = s.id AND e.source = 'user'
          AND e.kind = '{INTERRUPT}' AND e.number > s.interrupted_number)
"""
AWAKE = "SELECT id, state, reason FROM ohsessions_session WHERE state <> 'passivated'"
STALE = re.compile(r"has another owner")
ERROR = re.compile(
    r"^[-0-9]+ [:0-9,]+ (?:ERROR|CRITICAL) ((?:ohsessions|asyncio|daphne)[^\\\n]*)", re.MULTILINE
)
"""The log lines that report a loss. Other packages' lines about a lost Redis do not count."""
NAMES = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[\w-]{20}\b|\b[0-9a-f]{8}\b|at 0x\w+")


class Run:
    """See the module's docstring. `play` returns the history."""

    def __init__(self, options: Options, folder: Path, tell: Callable[[str], None]) -> None:
        self.options = options
        self.history = History(options.as_json())
        self._folder = folder
        self._tell = tell
        self._began = time.monotonic()

    def now(self) -> float:
        """Return the run time."""
        return time.monotonic() - self._began

    def _trouble(self, text: str) -> None:
        self._tell(f"{self.now():6.1f} s  trouble: {text}")
        self.history.troubles.append(f"{self.now():.1f} s: {text}")

    async def play(self) -> History:
        adopt_orphans()
        self._site = site = Site(self._folder, self.options, self._trouble)
        background: list[asyncio.Task[None]] = []
        try:
            await site.start()
            self._observer = Observer(site.postgres.url, self.now)
            await self._wait_processes(START_LIMIT)
            self._began = time.monotonic()
            self._observer = Observer(site.postgres.url, self.now)
            background = [
                asyncio.create_task(self._observer.watch(), name="observer"),
                asyncio.create_task(self._supervise(), name="supervisor"),
            ]
            self._clients = self._make_clients()
            living = [asyncio.create_task(one.run(), name=one.name) for one in self._clients]
            background += living
            injector = Injector(
                site.processes,
                site.proxies,
                site.postgres,
                site.redis,
                self.options.seed,
                self.now,
                self._tell,
            )
            await injector.play(make_schedule(self.options))
            await asyncio.sleep(max(0.0, self.options.seconds - self.now()))
            self.history.faults = sorted(injector.record, key=lambda one: one.at)
            await self._settle(living)
            await self._look_around()
            await self._stop_processes()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await site.stop()
        self._collect()
        return self.history

    # Before

    async def _wait_processes(self, limit: float) -> None:
        """Wait until every process that should be there has registered."""
        pids = ",".join(str(process.pid) for process in self._site.processes.values())
        wanted = len(self._site.processes)
        sql = (
            f"SELECT 1 WHERE {wanted} > (SELECT count(DISTINCT pid) FROM ohsessions_process"
            f" WHERE state = 'active' AND pid IN ({pids}))"
        )
        if await self._observer.wait(sql, limit):
            self._trouble(f"not all processes had registered within {limit:.0f} s")

    def _make_clients(self) -> list[ChaosClient]:
        options, proxies = self.options, list(self._site.proxies.values())
        sessions = [make_session(options, index) for index in range(options.sessions)]
        # Half of the clients are raw; each session has some of both kinds.
        kinds = (LibrarySocket, RawSocket, self._site.node.make_socket, RawSocket)
        clients = []
        for index in range(options.clients):
            session = sessions[index % len(sessions)]
            random = Random(f"{options.seed}/client{index}")
            socket = kinds[(index // len(sessions) + index) % len(kinds)]
            opens = index < len(sessions)
            clients.append(
                ChaosClient(f"client{index}", session, opens, socket, proxies, random, self.now, options.slow)
            )
        return clients

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for process in self._site.processes.values():
                process.supervise()
            for kind, size in self._site.memory().items():
                self.history.memory[kind] = max(size, self.history.memory.get(kind, 0))

    # After the faults

    async def _settle(self, living: list[asyncio.Task[None]]) -> None:
        """Inject no more faults. Wait until all is sent, handled and read. Then make every client leave."""
        self.history.quiet_at = self.now()
        self._tell(f"{self.now():6.1f} s  quiet")
        await self._site.postgres.wait_answers()
        await self._wait_processes(START_LIMIT)
        for client in self._clients:
            client.settling.set()
        await self._wait(lambda: not any(one.unacknowledged for one in self._clients), "acknowledgements")
        for row in await self._observer.wait(UNHANDLED, self.options.settle_limit):
            self._trouble(f"session {row[0].hex} ({row[1]}) still has unhandled actions or interrupts")
        heads = await self._observer.heads()
        await self._wait(lambda: all(self._is_at(one, heads) for one in self._clients), "reading to the head")
        for client in self._clients:
            if client.attachment is not None:
                client.attachment.at_end = True
            client.leaving.set()
        await asyncio.wait(living, timeout=self.options.settle_limit)
        for row in await self._observer.wait(AWAKE, self.options.settle_limit):
            self._trouble(f"session {row[0].hex} is {row[1]} at the end: {row[2]}")

    @staticmethod
    def _is_at(client: ChaosClient, heads: dict[str, int]) -> bool:
        current = client.attachment
        return current is not None and client.cursor >= heads.get(current.session, 0)

    async def _wait(self, true: Callable[[], bool], what: str) -> None:
        limit = self.options.settle_limit
        end = self.now() + limit
        while not true():
            if self.now() > end:
                self._trouble(f"{what}: not within {limit:.0f} s of quiet")
                return
            await asyncio.sleep(0.1)

    async def _look_around(self) -> None:
        """Look for leftovers, with every client gone and every session asleep."""
        history, observer = self.history, self._observer
        await observer.wait("SELECT sid FROM ohsessions_connection WHERE ended_at IS NULL", 5.0)
        history.leftovers += await observer.open_connections()
        history.events, history.moves = await observer.events(), await observer.moves()
        ends = await observer.ends()
        history.departures = [
            replace(one, session=one.session.replace("-", ""), noticed_at=ends.get(one.sid))
            for client in self._clients
            for one in client.departures
        ]
        history.sessions, named = await observer.sessions()
        await self._site.sweep_files()
        for missing in sorted(name for name in named if not (self._site.files / name).is_file()):
            self._trouble(f"the snapshot {missing} of a session is lost")
        for file in sorted(self._site.files.rglob("*")):
            if file.is_file() and str(file.relative_to(self._site.files)) not in named:
                history.leftovers.append(Leftover("file", file.name))
        ours = {process.pid for process in self._site.processes.values()}
        servers = {one.process.pid for one in (self._site.postgres, self._site.redis) if one.process}
        roots = ours | servers | {self._site.node.pid}
        below = {pid for server in servers for pid in descendants(server)}
        for pid, command in descendants(os.getpid()).items():
            if pid not in roots | below:
                history.leftovers.append(Leftover("process", f"{pid} {command[:120]}"))

    async def _stop_processes(self) -> None:
        await asyncio.gather(*(process.stop() for process in self._site.processes.values()))
        for pid, command in descendants(os.getpid()).items():
            if "program.py" in command or "watchdog.py" in command:
                self.history.leftovers.append(Leftover("process after the stop", f"{pid} {command[:120]}"))

    def _collect(self) -> None:
        history = self.history
        history.samples = self._observer.samples
        history.sent = [one for client in self._clients for one in client.sent]
        history.attachments = [one for client in self._clients for one in client.attachments]
        for one in history.attachments:
            one.session = one.session.replace("-", "")
        for action in history.sent:
            action.session = action.session.replace("-", "")
        history.lines = list(read_lines(sorted(self._site.notes.iterdir()), self._began))
        for log in self._folder.glob("worker*.txt"):
            history.refused_writes += len(STALE.findall(log.read_text(errors="replace")))
        logs = [log.read_text(errors="replace") for log in self._folder.glob("*.txt")]
        found = Counter(NAMES.sub("…", line)[:160] for log in logs for line in ERROR.findall(log))
        history.logged_errors = dict(found.most_common())
        errors: dict[str, int] = {}
        for client in self._clients:
            for word, count in client.errors.items():
                errors[word] = errors.get(word, 0) + count
        self.errors = errors
