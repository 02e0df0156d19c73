"""Switches that take protections away work where a test asks for it, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ohsessions.core import switches


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    switches._switched_off.cache_clear()
    yield
    switches._switched_off.cache_clear()


def test_every_protection_is_on_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", "1")
    monkeypatch.delenv(switches.VARIABLE, raising=False)
    assert all(switches.is_on(name) for name in switches.NAMES)


def test_a_named_protection_is_off_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", "1")
    monkeypatch.setenv(switches.VARIABLE, "epoch, marks")
    assert {name for name in switches.NAMES if switches.is_on(name)} == {"reconcile"}


@pytest.mark.parametrize("debug", ["", "0", "no"])
def test_without_debug_nothing_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, debug: str) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", debug)
    monkeypatch.setenv(switches.VARIABLE, "epoch,reconcile,marks")
    assert all(switches.is_on(name) for name in switches.NAMES)


def test_an_unknown_protection_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        switches.is_on("epochs")
