"""The admin of sessions: the list, and a page for each session that explains why it is awake."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import Truncator

from ohsessions import access, snapshots, vault
from ohsessions.admin import display, events, overview
from ohsessions.admin.filters import (
    ConnectedFilter,
    DueFilter,
    FieldFilter,
    RuntimeFilter,
    TroubleFilter,
    WorkerFilter,
)
from ohsessions.admin.lookups import uuid_or_none
from ohsessions.admin.operations import OperatedAdmin, action_of
from ohsessions.admin.processes import counted
from ohsessions.admin.steering import PASSIVATE, REVOKE_LINKS, WAKE
from ohsessions.core.secret_settings import mask_secrets
from ohsessions.core.states import State
from ohsessions.core.wire import encode
from ohsessions.models import Connection, Event, Session, Transition
from ohsessions.views import console_path

if TYPE_CHECKING:
    from ohsessions.admin.annotations import SessionRow

LATEST = 50
"""Rows of each kind on a session's page."""
REDACTED = "••••••"
MASKED = "What is masked here lies in the database in clear: it was stored before it counted as a secret."


@admin.register(Session)
class SessionAdmin(OperatedAdmin):
    list_display = (
        "name",
        "state_and_reason",
        "runtime",
        "owner_name",
        "attached",
        "worker_link",
        "passivates",
        "active",
        "event_count",
        "trouble",
    )
    list_filter = (
        ("state", FieldFilter),
        TroubleFilter,
        ConnectedFilter,
        DueFilter,
        RuntimeFilter,
        WorkerFilter,
    )
    date_hierarchy = "active_at"
    search_fields = ("id",)
    search_help_text = "An id, or a part of it, of the title, or of the owner's name."
    hidden = ("secrets", "init_key", "snapshot", "settings")
    operations = (PASSIVATE, WAKE, REVOKE_LINKS)
    actions = tuple(map(action_of, operations))
    fieldsets = (
        ("Settings", {"fields": ("readable_settings", "has_secrets", "snapshot_size")}),
        (
            "Raw numbers",
            {
                "classes": ("collapse",),
                "fields": (
                    ("first_number", "next_number"),
                    ("last_action_number", "started_number", "handled_number"),
                    ("interrupted_number", "attempts"),
                    ("epoch", "token_version", "secrets_version"),
                    ("crashes", "suspicion"),
                    ("passivate_at", "retry_at", "forced_by"),
                    ("created_at", "state_at", "active_at"),
                ),
            },
        ),
    )

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("ohsessions.revoke_links"))

    # The list

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        attached = counted(Connection.objects.attached(), "session")
        rows = super().get_queryset(request).select_related("owner", "worker")
        shown: QuerySet[Any] = rows.annotate(attached_count=attached)
        return shown

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        if key := uuid_or_none(term):  # accepts any spelling of an id, and uses its index
            return rows.filter(pk=key)
        for word in term.split():
            owner = Q((f"owner__{get_user_model().USERNAME_FIELD}__icontains", word))
            rows = rows.filter(owner | Q(title__icontains=word) | Q(id__icontains=word))
        return rows

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"state_counts": state_counts(request)} | (extra_context or {})
        return super().changelist_view(request, context)

    active = display.time_column("active_at", "last activity", ordering="active_at")

    @admin.display(description="session", ordering="title")
    def name(self, row: Session) -> str:
        title = Truncator(row.title).chars(60) or "Untitled"
        return format_html("{}<br>{}", title, display.identifier(row.pk))

    @admin.display(description="state", ordering="state")
    def state_and_reason(self, row: Session) -> str:
        said = Truncator(row.reason).chars(70)
        mark, title = display.badge(row.state), row.reason
        return format_html('{}<div class="oh-reason" title="{}">{}</div>', mark, title, said)

    @admin.display(description="owner", ordering="owner")
    def owner_name(self, row: Session) -> str:
        return row.owner.get_username() if row.owner else display.NOTHING

    @admin.display(description="conn.", ordering="attached_count")
    def attached(self, row: SessionRow) -> str:
        return display.count_link(row.attached_count, Connection, session=row.pk, status="attached")

    @admin.display(description="worker", ordering="worker__host")
    def worker_link(self, row: Session) -> str:
        if overview.is_unowned(row):
            return display.warning("none", "It is awake, and no worker owns it.")
        return display.process_link(row.worker)

    @admin.display(description="passivates", ordering="passivate_at")
    def passivates(self, row: Session) -> str:
        return passivation(row, timezone.now())

    @admin.display(description="events", ordering="next_number")
    def event_count(self, row: Session) -> str:
        return display.count_link(row.next_number - row.first_number, Event, session=row.pk)

    @admin.display(description="crashes", ordering="crashes")
    def trouble(self, row: Session) -> str:
        if not row.crashes:
            return display.NOTHING
        if row.retry_at is None:
            return display.warning(str(row.crashes))
        now = timezone.now()
        retry = f"retry {display.relative(row.retry_at, now)}" if row.retry_at > now else "may retry"
        return format_html("{} {}", display.warning(str(row.crashes)), display.timed(row.retry_at, retry))

    # The page

    def heading(self, row: Session) -> str:
        return row.title or f"Session {display.short(row.pk)}"

    def beside(self, request: HttpRequest, row: SessionRow) -> dict[str, Any]:
        """Add the explanations, and rows of other tables that the user may view."""
        now = timezone.now()
        shown: dict[str, Any] = super().beside(request, row) | {
            "session": row,
            "question": overview.question(row),
            "passivates": passivation(row, now),
            "summary": overview.summary(row, row.attached_count, now),
            "facts": overview.facts(row, row.attached_count, now),
            "console_url": console_path(row.pk),
            "event_count": row.next_number - row.first_number,
        }
        may = request.user.has_perm
        if may("ohsessions.view_transition"):
            shown["transitions"] = row.transitions.all()[:LATEST]
            shown["transitions_url"] = display.list_of(Transition, session=row.pk)
        if may("ohsessions.view_connection"):
            rows = row.connections.select_related("user", "gateway")
            shown["connections"] = rows.order_by(F("ended_at").desc(nulls_first=True), "-pk")[:LATEST]
            shown["connections_url"] = display.list_of(Connection, session=row.pk)
        if may("ohsessions.view_event"):
            shown["events"] = events.excerpts(row.events.order_by("-number"))[:LATEST]
            shown["events_url"] = display.list_of(Event, session=row.pk)
        return shown

    @admin.display(description="settings")
    def readable_settings(self, row: Session) -> str:
        # Rows of older versions have secrets among their settings, in clear.
        shown = mask_secrets(row.settings, REDACTED, vault.declared(row.runtime))
        text = json.dumps(shown, indent=2, ensure_ascii=False, sort_keys=True)
        note = "" if shown == row.settings else display.warning(MASKED)
        return format_html('{}<pre class="oh-json">{}</pre>', note, text)

    @admin.display(description="secrets")
    def has_secrets(self, row: Session) -> str:
        return "Stored, encrypted; never shown." if row.secrets else "None."

    @admin.display(description="snapshot")
    def snapshot_size(self, row: Session) -> str:
        """Return the size only: a runtime may store a secret in its snapshot."""
        if row.snapshot_file:
            return f"In the file {row.snapshot_file}"
        if row.snapshot is None:
            return "None."
        how = "encrypted" if snapshots.is_encrypted(row.snapshot) else "in clear, of an older version"
        return f"{len(encode(row.snapshot).encode()):,} bytes in the row, {how}"


def passivation(session: Session, now: datetime) -> str:
    """Return as HTML when a session is due to be passivated, with a warning if that is overdue."""
    due = session.passivate_at
    if due is None:
        return display.NOTHING
    if overview.is_late(session, now):
        return display.timed(due, f"now, since {display.relative(due, now)[:-4]}", "oh-warning")
    return display.timed(due, "now" if due <= now else display.relative(due, now))


def state_counts(request: HttpRequest) -> list[tuple[str, int]]:
    """Return the number of sessions in each state, in the order of their life. One query, by an index."""
    counts = dict(
        access.visible(request.user, Session.objects.order_by()).values_list("state").annotate(Count("pk"))
    )
    return [(state.value, counts.get(state.value, 0)) for state in State]
