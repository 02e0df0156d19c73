"""The admin of transitions: every move between states, its author and its reason."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from ohsessions.admin import display
from ohsessions.admin.base import OfSessionAdmin
from ohsessions.admin.filters import SessionFilter, TargetFilter
from ohsessions.models import Transition


@admin.register(Transition)
class TransitionAdmin(OfSessionAdmin):
    list_display = ("move", "session_link", "reason", "actor", "epoch", "moved")
    list_filter = (SessionFilter, TargetFilter)
    ordering = ("-pk",)  # the newest first, by an index
    sortable_by = ()
    search_fields = ("reason", "by")
    search_help_text = "A session's id, or a part of the reason or of who made the move."
    fieldsets = ((None, {"fields": ("move", "session_link", "reason", "actor", "epoch", "moved", "at")}),)

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        return rows.filter(Q(reason__icontains=term) | Q(by__icontains=term))

    moved = display.time_column("at", "at")

    def heading(self, row: Transition) -> str:
        return f"Transition: {row}"

    def move(self, row: Transition) -> str:
        origin = display.badge(row.origin) if row.origin else display.quiet("new")
        return format_html('<span class="oh-move">{} → {}</span>', origin, display.badge(row.target))

    @admin.display(description="by")
    def actor(self, row: Transition) -> str:
        return display.actor(row.by)
