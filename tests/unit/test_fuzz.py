"""The fuzzer finds escaping errors and shrinks their input. A short campaign finds none in any decoder."""

from __future__ import annotations

import pytest

from tests.fuzz import campaign
from tests.fuzz.stack import Reader
from tests.fuzz.targets import TARGETS, Target

COUNT = 3000


def fragile(data: bytes) -> None:
    """Break on two brackets, and raise a declared error on one."""
    if b"[[" in data:
        raise KeyError("two brackets")
    if b"[" in data:
        raise ValueError("one bracket")


FRAGILE = Target("fragile", fragile, (ValueError,), [b"some text [[ and more", b"x"], lambda random: b"[" * 9)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
async def test_nothing_but_declared_errors_escapes_from(target: Target) -> None:
    report = await campaign.run(COUNT, 1, [target])
    assert not report.findings, "\n".join(finding.describe(1) for finding in report.findings)
    assert report.total == COUNT


@pytest.mark.parametrize("name", ["websocket", "polling"])
async def test_events_reach_the_handler_behind_the_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, the campaign would fuzz only the server's first check."""
    monkeypatch.setattr(Reader, "events", 0)
    (target,) = (target for target in TARGETS if target.name == name)
    await campaign.run(1000, 1, [target])
    assert Reader.events > 50


async def test_an_error_that_nobody_declared_is_found_with_the_smallest_input_that_causes_it() -> None:
    report = await campaign.run(200, 1, [FRAGILE])
    assert {finding.data for finding in report.findings} == {b"[["}
    assert {type(finding.error) for finding in report.findings} == {KeyError}
    finding = report.findings[0]
    assert isinstance(
        await campaign.try_input(FRAGILE, campaign.make_input(FRAGILE, 1, finding.number)), KeyError
    )
    assert f"SEED=1 ARGS='--only fragile --at {finding.number}'" in finding.describe(1)


def test_a_seed_gives_the_same_inputs_each_time_and_another_one_others() -> None:
    target = TARGETS[0]

    def made(seed: int) -> list[bytes]:
        return [campaign.make_input(target, seed, number) for number in range(50)]

    assert made(1) == made(1)
    assert made(1) != made(2)
