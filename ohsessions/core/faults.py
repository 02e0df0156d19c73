"""What broke in a runtime, as it is told: to a session's users a reference, to operators the text.

The text of an exception may have addresses, paths or other people's data in it. It stands in the log and in
the admin only, under the reference, which users can pass on.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

_MARK = ": "
"""What follows it in a reason is for operators."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, in words: `what` broke, which users are told, and the `text` for operators."""

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
    """Return what a session's users may read of the reason of its state."""
    return reason.partition(_MARK)[0]
