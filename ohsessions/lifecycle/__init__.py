"""The life of a session. Each function is one transaction, called in a thread (see ohsessions.database).

Only `Locked.move` changes a state, and stores the reason, the epoch and a row of Transition. An awake
session without connections has a `passivate_at`, unless CLOSE_DELAY is None. Each change of the owner raises
the epoch, so that writes of the former owner are refused: claim, release, close, fail and takeover raise it.
"""

from ohsessions.lifecycle.clients import (
    Arrival,
    Attached,
    attach,
    detach,
    open_session,
    write_off,
)
from ohsessions.lifecycle.discards import discard, discardable
from ohsessions.lifecycle.links import live_links, revoke_all, revoke_link, share
from ohsessions.lifecycle.locked import Change
from ohsessions.lifecycle.operators import (
    close,
    close_for,
    force_passivation,
    rename,
    wake,
)
from ohsessions.lifecycle.owners import (
    Claimed,
    claim,
    claim_passivation,
    crash,
    due,
    end_start,
    is_unwanted_start,
    release,
    run,
    wanted,
)
from ohsessions.lifecycle.sweeps import (
    end_reasons,
    hand_over,
    left_behind,
    open_connections,
    owned_by,
    presence,
    revoked,
    settle,
    strays,
)

__all__ = [
    "Arrival",
    "Attached",
    "Change",
    "Claimed",
    "attach",
    "claim",
    "claim_passivation",
    "close",
    "close_for",
    "crash",
    "detach",
    "discard",
    "discardable",
    "due",
    "end_reasons",
    "end_start",
    "force_passivation",
    "hand_over",
    "is_unwanted_start",
    "left_behind",
    "live_links",
    "open_connections",
    "open_session",
    "owned_by",
    "presence",
    "release",
    "rename",
    "revoke_all",
    "revoke_link",
    "revoked",
    "run",
    "settle",
    "share",
    "strays",
    "wake",
    "wanted",
    "write_off",
]
