"""`manage.py ohsessions drain`: the processes that a name means, and the effect on them."""

from __future__ import annotations

from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from ohsessions.models import Process

A, B, C, D = (
    UUID(f"{start}-0000-4000-8000-000000000000") for start in ("aaaa1111", "aaaa2222", "12340000", "dddd0000")
)


@pytest.fixture(autouse=True)
def _processes(db: None) -> None:
    """Create two containers of one name, one of them with gateway and worker, and a process that is gone."""
    make(A, pid=1, birth="boot/1/7", kind="worker")
    make(B, pid=1, birth="boot/2/7", kind="worker")
    make(C, pid=1, birth="boot/2/7", kind="gateway")
    make(D, pid=1234, birth="boot/3/9", kind="worker", state="gone")


def make(key: UUID, **values: Any) -> None:
    now = timezone.now()
    fields: dict[str, Any] = {"host": "agents", "version": "1", "started_at": now, "seen_at": now}
    Process.objects.create(id=key, **fields | values)


def draining() -> set[UUID]:
    return set(Process.objects.filter(state="draining").values_list("pk", flat=True))


def drain(*names: str) -> str:
    """Run the command without a wait for the processes, and return the reason for its failure."""
    with pytest.raises(CommandError) as caught:
        call_command("ohsessions", "drain", *names, "--timeout", "0", stdout=StringIO())
    return str(caught.value)


@pytest.mark.parametrize("name", [str(A), A.hex, str(A).upper(), "aaaa1"])
def test_an_id_and_its_beginning_name_one_process(name: str) -> None:
    assert f"(see --timeout): {A}" in drain(name)
    assert draining() == {A}


@pytest.mark.parametrize("name", [str(B), str(C), "1234"])
def test_a_process_that_is_gateway_and_worker_at_once_drains_as_both(name: str) -> None:
    said = drain(name)
    assert draining() == {B, C}
    assert str(B) in said
    assert str(C) in said


@pytest.mark.parametrize(
    ("name", "candidates"), [("agents:1", {A, B, C}), ("1", {A, B, C}), ("aaaa", {A, B})]
)
def test_an_ambiguous_name_drains_nothing_and_lists_who_has_it(name: str, candidates: set[UUID]) -> None:
    said = drain(str(C), name)
    assert draining() == set()
    assert f"{name!r} names several processes" in said
    for key in candidates:
        row = Process.objects.get(pk=key)
        assert f"{key}  {row.kind:7}  agents:1  active, started {row.started_at:%Y-%m-%d %H:%M}" in said
    for key in {A, B, C, D} - candidates:
        assert str(key) not in said


@pytest.mark.parametrize("name", ["", "-", "zzz", "agents:2", str(D)])
def test_a_name_that_nobody_has_drains_nothing_and_lists_all(name: str) -> None:
    said = drain(str(A), name)
    assert draining() == set()
    assert f"{name!r} names no living process" in said
    for key in (A, B, C):
        assert str(key) in said


def test_containers_whose_namespace_is_unknown_are_not_taken_for_one() -> None:
    Process.objects.update(birth="/7")
    assert "names several processes" in drain("agents:1")
    drain(str(B))
    assert draining() == {B}
