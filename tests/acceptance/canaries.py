"""Canaries: unique values that are planted in every secret, and searched for where no secret may be."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ohsessions.programs.watchdog import descendants
from tests.acceptance.operators import Operator
from tests.acceptance.site import Site


class Canaries:
    """One canary for each name. It is made when the name is used first."""

    def __init__(self) -> None:
        self._planted: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._planted.setdefault(name, f"canary-{secrets.token_hex(12)}")

    def init(self) -> dict[str, Any]:
        """Return the arguments of an INIT with a canary in every kind of secret."""
        return {
            "LLM_API_KEY": self["llm_api_key"],
            "openai_key": self["openai_key"],
            "ssh_key": f"-----BEGIN PRIVATE KEY-----\n{self['ssh_key']}\n-----END PRIVATE KEY-----\n",
            "authorization": f"Bearer {self['authorization']}",
            "llm": {"api_key": self["nested"], "fallbacks": [{"passwd": self["in a list"]}]},
            "credentials": {"user": self["below a secret"], "more": [self["deep below a secret"]]},
            "config": json.dumps({"dsn": self["in a string"], "level": 1}),
            "base_url": f"https://ann:{self['in a URL']}@llm.example/v1",
            "database": f"Server=db;Password={self['in a connection string']};",
            "headers": [{"name": "X-Api-Key", "value": self["in a header"]}],
            "quoted_secret": f'"{self["quoted"]}" \\',
        }

    def found_in(self, place: bytes | str) -> list[str]:
        """Return the names of the canaries in this text."""
        text = place if isinstance(place, bytes) else place.encode()
        return [name for name, canary in self._planted.items() if canary.encode() in text]

    def check(self, places: Iterator[tuple[str, bytes | str]]) -> int:
        """Check that no place contains a canary. Return the number of places."""
        count = 0
        for name, place in places:
            assert self.found_in(place) == [], name
            count += 1
        return count


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()


def processes_below(*pids: int) -> Iterator[tuple[str, bytes]]:
    """Yield the command lines and environments of these processes and of their living descendants."""
    for pid in pids:
        for one in (pid, *descendants(pid)):
            for what in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    yield f"{what} of process {one}", Path(f"/proc/{one}/{what}").read_bytes()


def rows_of(site: Site) -> Iterator[tuple[str, str]]:
    """Yield a dump of PostgreSQL's tables."""
    tables = site.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        yield f"table {table}", repr(site.query(f'SELECT dump::text FROM "{table}" dump'))


def pages_of(operator: Operator) -> Iterator[tuple[str, str]]:
    """Yield every list of the admin, and the page of each row."""
    for table in ("session", "event", "connection", "transition", "process"):
        address = f"/admin/ohsessions/{table}/"
        text = operator.read(address)
        yield address, text
        for page in sorted(set(re.findall(rf'href="({address}[^"?]+/change/)', text))):
            yield page, operator.read(page)
