"""`manage.py ohsessions serve` as a process: its refusals, its start, and its stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ohsessions.serving.http_requests import BodyLimits
from tests.requirements import free_port, wait_until

ROOT = Path(__file__).parents[2]
MIB = 2**20

APPLICATION = """
import asyncio

from django.core.asgi import get_asgi_application
from twisted.internet import reactor

from ohsessions import routing

reactor.callWhenRunning(lambda: print("the reactor runs", flush=True))
get_asgi_application()

class Mount:
    async def stop(self):
        print("the application stops", flush=True)
        await asyncio.sleep(0.1)
        print("it has stopped", flush=True)

stopped = Mount()
routing._mounts.add(stopped)

async def application(scope, receive, send):
    if scope["path"] == "/hang":
        try:
            print("hanging", flush=True)
            await asyncio.Event().wait()
        finally:
            print("cancelled", flush=True)
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})
"""


class Served:
    """The command over an application that answers with the length of each body."""

    def __init__(self, directory: Path, port: int) -> None:
        (directory / "served_settings.py").write_text(
            "from project.settings import *\nASGI_APPLICATION = 'served_asgi.application'\n"
        )
        (directory / "served_asgi.py").write_text(APPLICATION)
        self.port = port
        self.output = directory / "output"
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "served_settings",
            "DJANGO_SECRET_KEY": "for tests only",
            "DATABASE_URL": f"sqlite:///{directory / 'db.sqlite3'}",
            "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
        }
        command = [sys.executable, ROOT / "manage.py", "ohsessions", "--skip-checks", "serve"]
        command += ["--port", str(port)]
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_serving(self) -> None:
        def settled() -> bool:
            serves = any(line.startswith("Serving on") for line in self.lines())
            return serves or self.process.poll() is not None

        wait_until(settled, "serve listening")
        assert self.process.poll() is None, self.output.read_text()

    def memory(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def post(self, path: str, body: bytes, *, times: int = 1, chunked: bool = False) -> str:
        """Send the body `times` over and return the answer, even if it comes before all is sent."""
        head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body) * times}"
        part = b"%x\r\n%s\r\n" % (len(body), body) if chunked else body
        with self.connect() as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
            try:
                for _ in range(times):
                    connection.sendall(part)
                if chunked:
                    connection.sendall(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            return connection.recv(65536).decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, free_port())
    try:
        served.wait_serving()
        yield served
    finally:
        served.process.kill()
        served.process.wait()


def test_the_longer_limit_holds_for_the_socketio_path_only():
    limits = BodyLimits(prefix="/socket.io/", below=5, default=2)
    own = ["/socket.io/?EIO=4", "/socket.io?EIO=4", "/socket%2Eio/"]
    assert [limits.limit(path) for path in own] == [5, 5, 5]
    assert [limits.limit(path) for path in ("/api/?/socket.io/", "/socket.iox/", "*")] == [2, 2, 2]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/socket.io/?EIO=4&transport=polling", "/api/sessions/"])
def test_a_body_of_300_mib_is_refused_and_costs_no_memory(served: Served, path: str, chunked: bool):
    before = served.memory()
    answer = served.post(path, b"x" * MIB, times=300, chunked=chunked)
    assert answer.startswith("HTTP/1.1 413 ")
    assert served.memory() - before < 16 * MIB


def test_a_large_body_is_refused_before_it_is_asked_for(served: Served):
    with served.connect() as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 300000000\r\n\r\n"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_within_the_limit_arrives_whole(served: Served, chunked: bool):
    answer = served.post("/socket.io/?EIO=4&transport=polling", b"x" * 1024, times=4096, chunked=chunked)
    assert answer.startswith("HTTP/1.1 200 ")
    assert answer.endswith(str(4 * MIB) + "\r\n0\r\n\r\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_whatever_its_requests_are_doing(served: Served, number: signal.Signals):
    with served.connect() as half_sent, served.connect() as hanging:
        half_sent.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: "hanging" in served.lines(), "the request's beginning")
        served.process.send_signal(number)
        assert served.process.wait(10) == 0
    words = ["the reactor runs", "hanging", "the application stops", "it has stopped", "cancelled"]
    assert [line for line in served.lines() if line in words or "Error" in line] == words


def test_a_port_in_use_is_said_and_is_a_failure(served: Served, tmp_path: Path):
    (tmp_path / "second").mkdir()
    second = Served(tmp_path / "second", served.port)
    assert second.process.wait(30) == 1
    assert f"Cannot listen on 127.0.0.1 port {served.port}" in second.lines()[-1]
