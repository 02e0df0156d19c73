"""The types of the admin's rows, for annotations: a model's instance with what its list adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypedDict

    from django_stubs_ext import WithAnnotations

    from ohsessions.models import Connection, Event, Process, Session

    class Attached(TypedDict):
        attached_count: int

    class Held(TypedDict):
        owned_count: int
        served_count: int

    class Behind(TypedDict):
        session_head: int

    class Cut(TypedDict):
        excerpt: str
        length: int

    ConnectionRow = WithAnnotations[Connection, Behind]
    EventRow = WithAnnotations[Event, Cut]
    SessionRow = WithAnnotations[Session, Attached]
    ProcessRow = WithAnnotations[Process, Held]
