"""The admin of connections: their users, sessions and addresses, and how many events they are behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from ohsessions.admin import display
from ohsessions.admin.base import OfSessionAdmin
from ohsessions.admin.filters import ConnectionFilter, GatewayFilter, RoleFilter, SessionFilter
from ohsessions.models import Connection

if TYPE_CHECKING:
    from ohsessions.admin.annotations import ConnectionRow

SHOWN_OF_A_SID = 8
"""Characters of a sid. Anybody with the whole sid could use the connection, so a search ignores the rest."""


@admin.register(Connection)
class ConnectionAdmin(OfSessionAdmin):
    list_display = (
        "name",
        "status",
        "session_link",
        "user_name",
        "role",
        "gateway_link",
        "origin",
        "attached",
        "ended",
        "behind",
    )
    list_filter = (ConnectionFilter, RoleFilter, SessionFilter, GatewayFilter)
    list_select_related = ("user", "gateway")
    ordering = ("-pk",)  # the newest first, by an index
    sortable_by = ()
    search_fields = ("sid",)
    search_help_text = "A session's id, the beginning of a connection's, a user's name, or an address."
    fieldsets = (
        (None, {"fields": ("status", "session_link", "user_name", "role", "behind")}),
        ("From where", {"fields": ("address", "user_agent", "transport", "gateway_link")}),
        ("When", {"fields": ("connected", "attached", "ended")}),
        (
            "Raw",
            {
                "classes": ("collapse",),
                "fields": (
                    ("sent_number", "token_version"),
                    ("connected_at", "attached_at", "ended_at"),
                ),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request).annotate(session_head=F("session__next_number") - 1)
        columns = [field.name for field in Connection._meta.fields]
        user, gateway = get_user_model().USERNAME_FIELD, ("kind", "host", "pid")
        shown: QuerySet[Any] = rows.select_related(*self.list_select_related).only(
            *columns,
            f"user__{user}",
            *(f"gateway__{column}" for column in gateway),
        )
        return shown

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        for word in term.split():
            user = Q((f"user__{get_user_model().USERNAME_FIELD}__icontains", word))
            beginning = Q(sid__istartswith=word[:SHOWN_OF_A_SID])
            rows = rows.filter(user | beginning | Q(address__istartswith=word))
        return rows

    connected = display.time_column("connected_at", "connected")
    attached = display.time_column("attached_at", "attached")

    def heading(self, row: Connection) -> str:
        return f"Connection {row.sid[:SHOWN_OF_A_SID]}"

    @admin.display(description="connection")
    def name(self, row: Connection) -> str:
        return row.sid[:SHOWN_OF_A_SID]

    def status(self, row: Connection) -> str:
        if row.ended_at:
            return display.badge("ended")
        return display.badge("attached" if row.session_id else "unattached")

    @admin.display(description="user")
    def user_name(self, row: Connection) -> str:
        return row.user.get_username() if row.user else display.NOTHING

    @admin.display(description="gateway")
    def gateway_link(self, row: Connection) -> str:
        return display.process_link(row.gateway)

    @admin.display(description="from")
    def origin(self, row: Connection) -> str:
        return format_html("{}<br>{}", row.address or display.NOTHING, display.quiet(row.transport))

    def ended(self, row: Connection) -> str:
        if row.ended_at is None:
            return display.NOTHING
        return format_html("{} {}", display.when(row.ended_at), display.quiet(row.end_reason))

    def behind(self, row: ConnectionRow) -> str:
        """Return the number of its session's events that it was not sent yet."""
        if row.ended_at or row.session_id is None:
            return display.NOTHING
        return f"{max(0, row.session_head - row.sent_number):,}"
