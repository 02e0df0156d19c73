"""Stored secrets, the keys that encrypt them, and the tokens in headers."""

from __future__ import annotations

from typing import Any

import pytest

from ohsessions import access
from ohsessions.core.errors import WireError


def use_keys(settings: Any, kind: str, *keys: str) -> None:
    if kind == "SECRETS_KEYS":
        settings.OHSESSIONS = {**settings.OHSESSIONS, "SECRETS_KEYS": [*keys]}
    else:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = keys[0], [*keys[1:]]


@pytest.mark.parametrize("kind", ["SECRET_KEY", "SECRETS_KEYS"])
def test_keys_rotate_and_what_was_encrypted_with_one_that_is_gone_is_lost(settings: Any, kind: str):
    use_keys(settings, kind, "old")
    before = access.encrypt("secret")
    assert "secret" not in before
    use_keys(settings, kind, "new", "old")
    after = access.encrypt("secret")
    assert access.decrypt(before) == access.decrypt(after) == "secret"
    use_keys(settings, kind, "new")
    assert access.decrypt(after) == "secret"
    with pytest.raises(WireError, match="no longer in SECRETS_KEYS"):
        access.decrypt(before)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Bearer", ""),
        ("Basic abc", None),
        ("", None),
    ],
)
def test_only_an_authorization_of_the_scheme_bearer_has_a_token(header: str, token: str | None) -> None:
    assert access.bearer_token(header) == token
