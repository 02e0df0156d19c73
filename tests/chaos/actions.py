"""The actions that clients send to the counting runtime: their kinds and their payloads."""

from __future__ import annotations

from random import Random
from typing import Any

COUNT = "count"
"""Answered with a few events, the last of which is marked as such."""
SLOW = "slow"
"""The same, but it takes a second or so."""
CRASH = "crash"
"""Breaks the runtime before its last event."""
INTERRUPT = "change_agent_state"
"""An interrupt of the protocol. The runtime writes down that it received it."""


def make_payload(kind: str, tag: str, client_id: str) -> dict[str, Any]:
    """Return the payload of this kind and tag. It is the same each time that the action is sent.

    Its numbers are integers, since JavaScript writes 1.0 as 1.
    """
    random = Random(client_id)
    args: dict[str, Any] = {"tag": tag}
    if kind == INTERRUPT:
        args["agent_state"] = random.choice(("paused", "running", "stopped"))
    else:
        slow = kind == SLOW
        args["parts"] = random.choice((1, 8, 32) if slow else (1, 1, 2, 4))
        args["milliseconds"] = random.randint(500, 2000) if slow else random.choice((0, 0, 20))
        args["program"] = random.random() < 0.03
    return {"action": kind, "args": args, "client_id": client_id}
