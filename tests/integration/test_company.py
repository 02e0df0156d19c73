"""Processes that have to be alone find each other; processes that may be many find nothing wrong."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from ohsessions.models import Process
from ohsessions.processes import company as company_module
from ohsessions.processes.company import Company
from tests.integration.world import World


class Others:
    """Rows of this process and of another one."""

    def __init__(self, world: World) -> None:
        self.company = Company()
        self.own = Process.objects.get(pk=world.gateway)
        self.worker = Process.objects.get(pk=world.worker)
        self.other = Process.objects.get(pk=world.gateway)
        self.other.pk, self.other.pid = uuid4(), self.own.pid + 1
        self.other.birth = self.own.birth + "1"

    def look(self, *processes: Process) -> str:
        self.company.look(self.own, [self.own, self.worker, *processes])
        return self.company.problem


@pytest.fixture
def others(world: World) -> Others:
    return Others(world)


def test_another_process_that_lives_is_found_and_told_once_with_its_name(others: Others, caplog: Any):
    caplog.set_level("INFO", company_module.__name__)
    assert others.look(others.other) == "", "it may be the row of one that was killed"
    others.other.heartbeat += 1
    for _ in range(3):
        assert "Another process works on this database, and the channel layer is in memory" in others.look(
            others.other
        )
    assert others.look() == ""
    lines = [record.getMessage() for record in caplog.records if record.name == company_module.__name__]
    assert [line.partition(" ")[0] for line in lines] == ["Another", "This"]
    assert others.other.address in lines[0]
    assert others.other.host not in others.company.problem


def test_the_gateway_and_the_worker_of_one_process_are_no_company(others: Others):
    others.look()
    others.worker.heartbeat += 1
    assert others.look() == ""
    # Without a known namespace, host and pid identify a process.
    others.own.birth = others.worker.birth = "/1"
    assert others.look() == ""


@pytest.mark.parametrize("state", ["draining", "gone"])
def test_one_that_ends_is_no_company(others: Others, state: str):
    others.look(others.other)
    others.other.heartbeat += 1
    others.other.state = state
    assert others.look(others.other) == ""


def test_with_redis_there_may_be_many_on_postgresql_and_one_on_sqlite(
    others: Others, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(company_module, "is_embedded", lambda: False)
    others.look(others.other)
    others.other.heartbeat += 1
    assert ("SQLite" in others.look(others.other)) == (database == "sqlite")
    assert bool(others.company.problem) == (database == "sqlite")
