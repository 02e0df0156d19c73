"""All processes of a run, on free ports of 127.0.0.1, in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import weakened
from tests.acceptance.site import ROOT
from tests.chaos.node_sockets import NodeClients
from tests.chaos.options import RUNTIMES, Options
from tests.chaos.processes import Managed
from tests.chaos.proxy import Proxy
from tests.chaos.servers import FallingPostgres, FallingRedis
from tests.no_limits import NO_LIMITS
from tests.requirements import MissingRequirement, find_postgres_programs, find_redis_server, free_port

BALLAST = 100_000
"""Characters that make a snapshot too large for its row."""


class Site:
    """Gateways behind proxies, workers, PostgreSQL, Redis, and Node for the clients that need it."""

    def __init__(self, folder: Path, options: Options, trouble: Callable[[str], None]) -> None:
        programs = find_postgres_programs()
        if programs is None:
            raise MissingRequirement("No PostgreSQL: apt-get install postgresql.")
        self.notes = folder / "notes"
        self.files = folder / "files"
        for made in (self.notes, self.files):
            made.mkdir(parents=True)
        self.postgres = FallingPostgres(programs)
        self.redis = FallingRedis(find_redis_server())
        self.node = NodeClients(folder / "node.txt", trouble)
        environment = self._environment(folder, options)
        self._environment_of_processes = environment
        self.processes: dict[str, Managed] = {}
        self.proxies: dict[str, Proxy] = {}
        for index in range(options.gateways):
            port = free_port()
            name = f"gateway{index}"
            arguments = ["serve", "--port", str(port)]
            self.processes[name] = Managed(name, arguments, environment, folder, trouble)
            self.proxies[f"proxy{index}"] = Proxy(f"proxy{index}", port)
        for index in range(options.workers):
            name = f"worker{index}"
            self.processes[name] = Managed(name, ["worker"], environment, folder, trouble)

    def _environment(self, folder: Path, options: Options) -> dict[str, str]:
        own = ("OHSESSIONS_", "DJANGO_", "DATABASE_URL", "REDIS_URL")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        backend = "tests.chaos.runtime.CountingRuntime"
        extra: dict[str, dict[str, Any]] = {
            "count": {},
            "retry": {"retries": True},
            "large": {"ballast": BALLAST},
        }
        settings = NO_LIMITS | {
            "RUNTIMES": {
                name: {"BACKEND": backend, "OPTIONS": {"folder": str(self.notes)} | extra[name]}
                for name in RUNTIMES
            },
            "DEFAULT_RUNTIME": "count",
            "LEASE_TTL": options.lease_ttl,
            "HEARTBEAT": options.heartbeat,
            "CLOSE_DELAY": options.close_delay,
            "PING_INTERVAL": 2,
            "PING_TIMEOUT": 3,
            "WORKSPACE_ROOT": str(folder / "workspaces"),
        }
        return clean | {
            "DJANGO_DEBUG": "1",
            "DJANGO_MEDIA_ROOT": str(self.files),
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            **weakened.environment(options.without),
            **{f"OHSESSIONS_{name}": json.dumps(value) for name, value in settings.items()},
        }

    async def start(self) -> None:
        self.postgres.start()
        self.redis.start()
        await self.node.start()
        await self._manage("migrate", "--verbosity", "0")
        for proxy in self.proxies.values():
            await proxy.start()
        for process in self.processes.values():
            process.start()

    async def sweep_files(self) -> None:
        """Delete snapshots that no session names, as a sweep on the next day would."""
        yesterday = time.time() - 24 * 3600
        for file in self.files.rglob("*.json"):
            os.utime(file, (yesterday, yesterday))
        code = "from ohsessions import snapshots; snapshots.sweep()"
        await self._manage("shell", "--verbosity", "0", "--command", code)

    async def _manage(self, *arguments: str) -> None:
        command = [sys.executable, "manage.py", *arguments]
        await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, env=self._environment_of_processes, check=True
        )

    async def stop(self) -> None:
        """Stop everything, in any state. Nothing of it is left running."""
        for proxy in self.proxies.values():
            if proxy.port:
                await proxy.stop()
        for process in self.processes.values():
            process.end_at_once()
        await self.node.stop()
        self.redis.stop()
        self.postgres.stop()

    def memory(self) -> dict[str, int]:
        """Return the largest resident size of each kind of process, in MiB."""
        sizes: dict[str, int] = {}
        for name, process in self.processes.items():
            kind = name.rstrip("0123456789")
            sizes[kind] = max(sizes.get(kind, 0), process.memory())
        return sizes
