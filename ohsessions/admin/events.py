"""The admin of events. It reads small pieces: a session may have a million events, and one may have 4 MB."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.db.models.functions import Left, Length
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.text import Truncator

from ohsessions.admin import display
from ohsessions.admin.base import OfSessionAdmin
from ohsessions.admin.filters import SessionFilter, SourceFilter
from ohsessions.core.wire import unstamp
from ohsessions.models import Event

if TYPE_CHECKING:
    from ohsessions.admin.annotations import EventRow

SESSION = SessionFilter.parameter_name
EXCERPT = 1000
"""Characters of an event's data that a list reads."""
SHOWN = 160
"""Characters of an event's text that a list shows."""
MOST_PRINTED = 200_000
"""Characters that an event's page prints; images come inside messages."""


def excerpts(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return rows with the beginning of their data instead of all data, and without hidden arguments."""
    cut: QuerySet[Any] = rows.annotate(excerpt=Left("data", EXCERPT), length=Length("data"))
    return cut.defer("data", "hidden_text")


def gist(excerpt: str) -> str:
    """Return an event in one line: its content, message, extras or args, the first that is not empty.

    For data that does not parse, such as an excerpt of a long event, return the JSON without id and time.
    """
    try:
        data = json.loads(excerpt)
        said = next((data[key] for key in ("content", "message", "extras", "args") if data.get(key)), "")
    except (ValueError, AttributeError):  # the data is longer than the excerpt, or not written by ohsessions
        said = unstamp(excerpt) if excerpt.startswith("{") and excerpt.count(",") > 1 else excerpt
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return Truncator(" ".join(text.split())).chars(SHOWN)


def pretty(data: str) -> str:
    """Return an event's JSON indented, or a text that is not JSON unchanged. A long one is cut."""
    try:
        text = json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    except ValueError:
        text = data
    return Truncator(text).chars(MOST_PRINTED, f"\n… cut: {len(text):,} characters in all")


@admin.register(Event)
class EventAdmin(OfSessionAdmin):
    list_display = ("number", "session_link", "source", "kind", "says", "size", "created")
    list_filter = (SessionFilter, SourceFilter)
    sortable_by = ()  # any other order would sort the whole table
    search_fields = ("kind",)
    search_help_text = "A session's id, or the exact kind of an event; within a session also any text."
    fieldsets = (
        (None, {"fields": ("session_link", "number", "source", "kind", "created", "size", "arguments")}),
        ("Data", {"fields": ("printed",)}),
        ("Raw", {"fields": ("id", "write_key", "created_at"), "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return excerpts(super().get_queryset(request))

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        shown = super().get_list_display(request)
        return [name for name in shown if name != "session_link" or SESSION not in request.GET]

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        # The newest first, by an index: within a session by number, else by the table's own id.
        return ["-number", "-pk"] if SESSION in request.GET else ["-pk"]

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        found = Q(kind=term)
        if SESSION in request.GET:  # the text has no index; a scan within one session is fast enough
            found |= Q(data__icontains=term)
        return rows.filter(found)

    created = display.time_column("created_at", "at")

    def heading(self, row: Event) -> str:
        return f"Event #{row.number}: {row.kind}"

    def beside(self, request: HttpRequest, row: Event) -> dict[str, Any]:
        others = Event.objects.filter(session=row.session_id).only("id", "number")
        before, after = (others.filter(number=row.number + step).first() for step in (-1, 1))
        return super().beside(request, row) | {"previous": before, "next": after}

    def says(self, row: EventRow) -> str:
        return format_html('<span class="oh-says">{}</span>', gist(row.excerpt))

    def size(self, row: EventRow) -> str:
        return filesizeformat(row.length)

    @admin.display(description="hidden arguments")
    def arguments(self, row: Event) -> str:
        hidden = Event.objects.filter(pk=row.pk, hidden_text__isnull=False).exists()
        return "Kept encrypted until the action is handled; never shown." if hidden else "None."

    @admin.display(description="JSON")
    def printed(self, row: Event) -> str:
        return format_html('<pre class="oh-json">{}</pre>', pretty(row.data))
