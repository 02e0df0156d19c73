"""The admin of transitions: every move between states, its author and its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from ohsessions.admin import display
from ohsessions.admin.base import ReadOnlyAdmin, with_titles
from ohsessions.admin.filters import SessionFilter, TargetFilter
from ohsessions.admin.lookups import uuid_or_none
from ohsessions.models import Transition

if TYPE_CHECKING:
    from django_stubs_ext import WithAnnotations

    class Named(TypedDict):
        session_title: str | None

    Row = WithAnnotations[Transition, Named]


@admin.register(Transition)
class TransitionAdmin(ReadOnlyAdmin):
    list_display = ("move", "session_link", "reason", "actor", "epoch", "moved")
    list_filter = (SessionFilter, TargetFilter)
    ordering = ("-pk",)  # the newest first, by an index
    sortable_by = ()
    search_fields = ("reason", "by")
    search_help_text = "A session's id, or a part of the reason or of who made the move."
    readonly_fields = ("move", "session_link", "actor", "moved")
    fieldsets = ((None, {"fields": ("move", "session_link", "reason", "actor", "epoch", "moved", "at")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_titles(super().get_queryset(request), request)

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        if key := uuid_or_none(term):
            return rows.filter(session=key)
        return rows.filter(Q(reason__icontains=term) | Q(by__icontains=term))

    def heading(self, row: Transition) -> str:
        return f"Transition: {row}"

    @admin.display(description="move")
    def move(self, row: Transition) -> str:
        origin = display.badge(row.origin) if row.origin else display.quiet("new")
        return format_html('<span class="oh-move">{} → {}</span>', origin, display.badge(row.target))

    @admin.display(description="session")
    def session_link(self, row: Row) -> str:
        return display.session_link(row.session_id, row.session_title)

    @admin.display(description="by")
    def actor(self, row: Transition) -> str:
        return display.actor(row.by)

    @admin.display(description="at")
    def moved(self, row: Transition) -> str:
        return display.when(row.at)
