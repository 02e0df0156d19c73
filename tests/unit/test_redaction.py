"""Secrets in text, in JSON and in streams."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ohsessions.core.redaction import PLACEHOLDER, Redactor

# Few letters, so that secrets overlap themselves and each other. No letter is in the placeholder.
texts = st.text(alphabet="abä", max_size=60)
secret_lists = st.lists(st.text(alphabet="abä", min_size=4, max_size=9), max_size=4)


@st.composite
def texts_with_secrets(draw):
    """Draw a list of secrets, and a text that contains whole secrets and parts of them."""
    secrets = draw(secret_lists)
    pieces = draw(st.lists(st.one_of(texts, st.sampled_from([*secrets, "a"]))))
    return secrets, "".join(pieces)


def expected(secrets, text):
    """Return the redacted text by its definition: each letter of each occurrence is removed."""
    covered = [False] * len(text)
    for secret in secrets:
        for start in range(len(text) - len(secret) + 1):
            if text[start : start + len(secret)] == secret:
                covered[start : start + len(secret)] = [True] * len(secret)
    pieces = []
    for position, letter in enumerate(text):
        if not covered[position]:
            pieces.append(letter)
        elif position == 0 or not covered[position - 1]:
            pieces.append(PLACEHOLDER)
    return "".join(pieces)


@given(texts_with_secrets())
def test_every_character_of_every_occurrence_goes_and_no_other(case):
    secrets, text = case
    assert Redactor(secrets).redact(text) == expected(secrets, text)


@given(texts_with_secrets())
def test_no_secret_is_in_the_output(case):
    secrets, text = case
    redacted = Redactor(secrets).redact(text)
    assert not any(secret in redacted for secret in secrets)


@given(texts_with_secrets(), st.lists(st.integers(0, 7)))
def test_the_parts_of_a_stream_do_not_matter(case, sizes):
    secrets, text = case
    redactor = Redactor(secrets)
    stream = redactor.stream()
    given_out, rest = [], text
    for size in sizes:
        given_out.append(stream.feed(rest[:size]))
        rest = rest[size:]
    given_out += [stream.feed(letter) for letter in rest]
    given_out.append(stream.flush())
    assert "".join(given_out) == redactor.redact(text)


def test_a_beginning_that_is_no_secret_after_all_comes_out_when_it_diverges():
    stream = Redactor(["hunter2"]).stream()
    assert [stream.feed(part) for part in ("I hun", "te", "d")] == ["I ", "", "hunted"]


def test_a_beginning_that_nothing_follows_comes_out_at_the_end():
    stream = Redactor(["hunter2"]).stream()
    assert stream.feed("hunter") == ""
    assert stream.flush() == "hunter"


def test_a_secret_inside_the_beginning_of_a_longer_one_is_not_given_out():
    stream = Redactor(["bcde", "abcdefgh"]).stream()
    assert stream.feed("abcdef") == ""
    assert stream.feed("!") == "a<secret>f!"


def test_overlapping_secrets_leave_nothing_of_either():
    assert Redactor(["abcdef", "efghij"]).redact("xabcdefghijx") == "x<secret>x"


def test_a_secret_that_overlaps_itself_in_two_ways_goes_in_both():
    for text in ("aabaabaa", "aabaaabaa"):
        assert Redactor(["aabaa"]).redact(f"-{text}-") == "-<secret>-"


def test_a_stream_whose_text_has_ended_takes_another():
    stream = Redactor(["hunter2"]).stream()
    for _ in range(2):
        assert stream.feed("hunter2") + stream.flush() == "<secret>"


def test_short_secrets_are_ignored():
    assert Redactor(["", "a", "abc"]).redact("abc a") == "abc a"


def test_json_is_redacted_in_strings_and_keys_and_nowhere_else():
    value = {"hunter2": ("hunter2!", 7, None, {"deep": ["a hunter2"]}), "n": 1.5, "yes": True}
    assert Redactor(["hunter2"]).redact_json(value) == {
        "<secret>": ["<secret>!", 7, None, {"deep": ["a <secret>"]}],
        "n": 1.5,
        "yes": True,
    }


@given(
    st.recursive(
        st.none() | texts | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)
    )
)
def test_json_without_secrets_comes_back_the_same(value):
    assert Redactor(["zzzz"]).redact_json(value) == json.loads(json.dumps(value))
