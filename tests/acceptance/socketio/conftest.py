"""Fixtures: real servers, each a process on a free port, with the echo application of app.py."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.requirements import MissingRequirement, find_socketio_client, free_port, require, wait_until

ROOT = Path(__file__).parents[3]
APPLICATION = "tests.acceptance.socketio.app:application"
# The times are short, so that a test can wait until the server notices a lost client.
SETTINGS = {"ping_interval": 2, "ping_timeout": 2, "connect_timeout": 5}

COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "daphne": lambda port: ["-v0", "-e", f"tcp:{port}:interface=127.0.0.1:backlog=4096", APPLICATION],
    "uvicorn": lambda port: ["--port", str(port), "--log-level", "warning", "--lifespan", "off", APPLICATION],
    "hypercorn": lambda port: ["--bind", f"127.0.0.1:{port}", APPLICATION],
}


@dataclass
class Server:
    url: str
    pid: int


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """Yield a server process that answers handshakes. A traceback in its log fails the test."""
    if importlib.util.find_spec(kind) is None:
        raise MissingRequirement(f"No {kind}: pip install {kind}.")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "SOCKETIO_SETTINGS": json.dumps(SETTINGS)}
    arguments = [sys.executable, "-m", kind, *COMMANDS[kind](port)]
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def answers() -> bool:
        assert process.poll() is None, f"{kind} did not start"
        try:
            return requests.get(f"{url}/socket.io/?EIO=4&transport=polling", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers, f"{kind} answering")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert "Traceback" not in log, log


@pytest.fixture(scope="session")
def daphne() -> Iterator[Server]:
    with running("daphne") as server:
        yield server


@pytest.fixture(scope="session")
def node() -> str:
    """Return the path of a Node that finds socket.io-client."""
    return require(find_socketio_client)
