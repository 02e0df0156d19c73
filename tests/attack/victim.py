"""The server under attack: the reference site in a process of its own, and its holdings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.site import ROOT, RUNTIMES, Site
from tests.chaos.processes import descendants

LOGIN = """
from django.conf import settings
from django.contrib.auth import get_user_model, SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
user = get_user_model().objects.create_user("ann", password="a long one, not to be guessed")
store = SessionStore()
store[SESSION_KEY] = str(user.pk)
store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
store[HASH_SESSION_KEY] = user.get_session_auth_hash()
store.save()
print(f"{settings.SESSION_COOKIE_NAME}={store.session_key}")
"""
SETTINGS = {"CLOSE_DELAY": 2, "PING_INTERVAL": 6, "PING_TIMEOUT": 8}
"""Shorter than the defaults, so that abandoned connections and sessions end while the trial waits for it."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """The holdings of a server: megabytes, sockets, programs below it, connections and awake sessions."""

    megabytes: float
    sockets: int
    programs: int
    connections: int
    awake: int


class Victim(Site):
    """A site with the user of the well-behaved client. Its database is a copy of a prepared one."""

    prepared: tuple[bytes, str] | None = None

    def __init__(self, folder: Path, *, debug: bool, environment: Mapping[str, str], **settings: Any) -> None:
        echo = {"RUNTIMES": {"echo": RUNTIMES["echo"]}}
        super().__init__(folder, **SETTINGS | ({} if debug else echo) | settings)
        self.environment |= {"DJANGO_DEBUG": "1" if debug else "0", "DJANGO_HTTPS": "0"}
        self.environment |= {"DJANGO_MEDIA_ROOT": str(folder / "files"), **environment}

    def prepare(self) -> None:
        if Victim.prepared is None:
            self.manage("migrate", "--verbosity", "0")
            cookie = self.manage("shell", "--verbosity", "0", "--command", LOGIN).strip()
            Victim.prepared = self.database.read_bytes(), cookie
        self.database.write_bytes(Victim.prepared[0])

    @property
    def cookie(self) -> str:
        assert Victim.prepared is not None
        return Victim.prepared[1]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def memory(self) -> float:
        """Return the resident size in megabytes; 0 if the server has ended."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)

    def sockets(self) -> int:
        """Return the number of its open sockets. Without root, only those of its port are visible."""
        count = 0
        try:
            entries = [*os.scandir(f"/proc/{self.pid}/fd")]
        except PermissionError:
            lines = Path("/proc/net/tcp").read_text().splitlines()
            return sum(line.split()[1].endswith(f":{self.port:04X}") for line in lines)
        for entry in entries:
            try:
                count += os.readlink(entry.path).startswith("socket:")
            except OSError:
                pass
        return count

    def places_of(self, word: str) -> list[str]:
        """Return the places of a word: files below its folder, and command lines of its processes."""
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        found = [str(file.relative_to(self.folder)) for file in files if word.encode() in file.read_bytes()]
        for pid in (self.pid, *descendants(self.pid)):
            for what in ("cmdline", "environ"):
                try:
                    if word.encode() in Path(f"/proc/{pid}/{what}").read_bytes():
                        found.append(f"the {what} of a process")
                except OSError:
                    pass
        return found

    def holdings(self) -> Holdings:
        ((connections,),) = self.query("SELECT count(*) FROM ohsessions_connection WHERE ended_at IS NULL")
        ((awake,),) = self.query(
            "SELECT count(*) FROM ohsessions_session WHERE state IN ('starting', 'running', 'passivating')"
        )
        return Holdings(self.memory(), self.sockets(), len(descendants(self.pid)), connections, awake)

    def spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a module of this package. The end of the module's input asks it to end."""
        return subprocess.Popen(
            [sys.executable, "-m", f"tests.attack.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
