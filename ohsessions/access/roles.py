"""Roles: the permissions of a connection, from the least to the most."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The permissions of a connection: a viewer reads, an editor also acts, the owner may also close."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"

    @property
    def may_act(self) -> bool:
        return self is not Role.VIEWER
