"""A site of many processes over one PostgreSQL and one Redis. Tests kill its gateways and workers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.site import ROOT, Site
from tests.no_limits import NO_LIMITS
from tests.requirements import wait_until


class Gateway(Site):
    """`manage.py ohsessions serve` of a cluster."""

    def __init__(self, folder: Path, environment: dict[str, str], **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.environment |= environment

    def prepare(self) -> None:
        """Do nothing: the cluster has prepared the database."""

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environment["DATABASE_URL"]) as connection:
            return connection.execute(sql, parameters or None).fetchall()

    def state(self, session_id: str) -> str:
        rows = self.query("SELECT state FROM ohsessions_session WHERE id = %s", session_id)
        return str(rows[0][0])


class Worker:
    """`manage.py ohsessions worker` of a cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.environment = environment
        self.log = folder / "worker.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "manage.py", "ohsessions", "worker"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        wait_until(self._works, "the worker saying that it works")

    def _works(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "Working" in self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the process a signal, and return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(timeout=60)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Cluster:
    """Gateways and workers that share a database, a channel layer and the folder of workspaces."""

    def __init__(
        self, folder: Path, database_url: str, redis_url: str, gateways: int, workers: int, **settings: Any
    ) -> None:
        addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
        settings = NO_LIMITS | {"WORKSPACE_ROOT": str(folder / "workspaces")} | settings
        self.gateways = [
            Gateway(_made(folder / f"gateway{i}"), addresses, **settings) for i in range(gateways)
        ]
        environment = self.gateways[0].environment
        self.workers = [Worker(_made(folder / f"worker{i}"), environment) for i in range(workers)]

    def start(self) -> None:
        self.gateways[0].manage("migrate", "--verbosity", "0")
        for process in (*self.gateways, *self.workers):
            process.start()

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.stop()
        for worker in self.workers:
            worker.end()

    def kill(self) -> None:
        """Kill the processes that still run, in any state."""
        for gateway in self.gateways:
            gateway.kill()
        for worker in self.workers:
            worker.end(signal.SIGKILL)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.gateways[0].query(sql, *parameters)

    def state(self, session_id: str) -> str:
        return self.gateways[0].state(session_id)

    def worker_of(self, session_id: str) -> Worker:
        """Return the worker that owns a session."""
        ((pid,),) = self.query(
            "SELECT pid FROM ohsessions_process p JOIN ohsessions_session s ON s.worker_id = p.id"
            " WHERE s.id = %s",
            session_id,
        )
        return next(worker for worker in self.workers if worker.process and worker.pid == pid)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
