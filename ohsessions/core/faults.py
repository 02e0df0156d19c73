"""A fault in a runtime, in two forms: a reference for the session's users, the text for operators.

The text of an exception may contain addresses, paths or other people's data. Only the log and the admin show
it. They show the reference, too, which users can pass on.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

_MARK = ": "
"""The text after this mark in a reason is for operators."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, in words: `what` broke is for users, the `text` for operators."""

    what: str
    text: str
    reference: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def public(self) -> str:
        return f"{self.what} (reference {self.reference})"

    @property
    def reason(self) -> str:
        """The reason of a transition. See public_reason()."""
        return f"{self.public}{_MARK}{self.text}"


def public_reason(reason: str) -> str:
    """Return the part of a state's reason that the session's users may read."""
    return reason.partition(_MARK)[0]
