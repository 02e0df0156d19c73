"""The number of values and levels in a JSON text, found without parsing it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohsessions.socketio.extent import exceeds, is_deeper

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a",\\[]{}: \u1234', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('k"\\[,', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def values(value: Any) -> int:
    """Return how many values the value contains, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + sum(map(values, inner))


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


@given(JSON, st.booleans())
def test_depth_is_that_of_the_parsed_value(value: Any, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only)
    depth = levels(value)
    assert not is_deeper(text, depth)
    assert depth == 0 or is_deeper(text, depth - 1)


@given(JSON, st.booleans())
def test_no_text_with_too_many_values_passes(value: Any, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only)
    count = values(value)
    # A comma or bracket stands before each value except the very first one.
    assert exceeds(text, count // 2 - 1)
    assert not exceeds(text, 2 * count)


@pytest.mark.parametrize("inside", [",", "[", "{", '\\"', "\\\\", '\\\\\\",[', "[]" * 3])
def test_what_stands_in_a_string_is_no_value(inside: str):
    assert not exceeds(f'["{inside * 1000}"]', 10)
    assert not is_deeper(f'["{inside * 1000}"]', 1)


@pytest.mark.parametrize(
    "text", ["[" * 1000, "[" + "{}," * 999 + "{}]", "[" + "1," * 999 + "1]", "[" + '"a",' * 999 + '"a"]']
)
def test_many_values_are_found_whatever_they_are(text: str):
    assert exceeds(text, 900)
    assert not exceeds(text, 2000)


@pytest.mark.parametrize("text", ["[" * 67, '{"a":' * 67, "[[],[" * 66])
def test_a_text_that_goes_too_deep_is_found_even_if_it_does_not_end(text: str):
    assert is_deeper(text, 66)
