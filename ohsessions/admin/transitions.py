"""Transitions: every move between states, with who made it and why."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from ohsessions.admin import display
from ohsessions.admin.base import ReadOnlyAdmin
from ohsessions.admin.filters import SessionFilter, TargetFilter, uuid_or_none
from ohsessions.models import Transition


@admin.register(Transition)
class TransitionAdmin(ReadOnlyAdmin):
    list_display = ("move", "session_link", "reason", "actor", "epoch", "moved")
    list_filter = (SessionFilter, TargetFilter)
    list_select_related = ("session",)
    ordering = ("-pk",)  # as they happened, by an index
    sortable_by = ()
    search_fields = ("reason", "by")
    search_help_text = "A session's id, or a part of the reason or of who made the move."
    readonly_fields = ("move", "session_link", "actor", "moved")
    fieldsets = ((None, {"fields": ("move", "session_link", "reason", "actor", "epoch", "moved", "at")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        # Of the session only what its link says: else each row would bring its snapshot along.
        columns = [field.name for field in Transition._meta.fields]
        rows = super().get_queryset(request).select_related("session")
        return rows.only(*columns, "session__title")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if key := uuid_or_none(search_term):
            return queryset.filter(session=key), False
        found = Q(reason__icontains=search_term) | Q(by__icontains=search_term)
        return queryset.filter(found) if search_term else queryset, False

    def heading(self, row: Transition) -> str:
        return f"Transition: {row}"

    @admin.display(description="move")
    def move(self, row: Transition) -> str:
        origin = display.badge(row.origin) if row.origin else display.quiet("new")
        return format_html('<span class="oh-move">{} → {}</span>', origin, display.badge(row.target))

    @admin.display(description="session")
    def session_link(self, row: Transition) -> str:
        return display.session_link(row.session)

    @admin.display(description="by")
    def actor(self, row: Transition) -> str:
        return display.actor(row.by)

    @admin.display(description="at")
    def moved(self, row: Transition) -> str:
        return display.when(row.at)
