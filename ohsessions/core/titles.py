"""Titles of sessions: one line of text that cannot change how the text around it is displayed."""

from __future__ import annotations

import re
import unicodedata

MAX_TITLE = 200
"""The largest number of characters in a title."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks, embeddings, overrides and isolates (UAX 9). They can show `gpj.exe` as `exe.jpg`."""
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_CONTROLS = frozenset({"Cc", "Cs"})


def clean_title(text: str) -> str:
    """Return the title without control and bidirectional characters. Line breaks become one space.

    Format characters that deceive no reader stay: some of them join emoji and letters of Indic scripts.
    """
    if text.isprintable():
        return text
    line = _BREAKS.sub(" ", text)
    return "".join(char for char in line if char not in _BIDI and unicodedata.category(char) not in _CONTROLS)
