"""The harness's own PostgreSQL and Redis, which fail and come back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import psycopg

from tests.requirements import PostgresServer, RedisServer, postgres_answers, wait_until


class FallingPostgres(PostgresServer):
    """A PostgreSQL that can be restarted like with `pg_ctl restart -m immediate`: then it has to recover."""

    async def restart(self, seconds: float) -> None:
        """Stop the server at once, and start it again after so many seconds."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(self.process.wait)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._start_again)

    def _start_again(self) -> None:
        top = Path(self.directory.name)
        arguments = ["-D", str(top / "data"), "-k", str(top), "-h", "127.0.0.1", "-p", str(self.port)]
        with open(top / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", *arguments], stdout=log, stderr=log, cwd=top, user=self.user
            )

    async def wait_answers(self) -> None:
        await asyncio.to_thread(wait_until, lambda: postgres_answers(self.url), "PostgreSQL answering")

    async def terminate_backends(self) -> None:
        """End every client's connection. Do nothing if the server does not answer."""
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        try:
            async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=2) as connection:
                await connection.execute(sql)
        except psycopg.OperationalError:
            pass


class FallingRedis(RedisServer):
    """A Redis that can be flushed, stopped and restarted, and then has lost everything."""

    async def flush(self) -> None:
        """Flush the server. Do nothing if it does not answer."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"FLUSHALL\r\n")
                await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            pass

    async def pause(self, seconds: float) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    async def restart(self, seconds: float) -> None:
        self.stop()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.start)
