"""Titles hold one line of text, whatever their origin and age."""

from __future__ import annotations

import pytest

from ohsessions.core.titles import clean_title


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("plain", "plain"),
        ("two\r\nlines\u2028three", "two lines three"),
        ("\u202egpj.exe\u202c", "gpj.exe"),
        ("\u2066a\u2069\u200eb\u061cc", "abc"),
        ("bell\x07 escape\x1b[31m nul\x00 c1\x9b", "bell escape[31m nul c1"),
        ("שלום 👩\u200d💻 नी", "שלום 👩\u200d💻 नी"),
    ],
)
def test_a_title_is_one_line_that_cannot_turn_what_stands_around_it(title: str, shown: str) -> None:
    assert clean_title(title) == shown
