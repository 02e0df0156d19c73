"""The admin of processes: which are alive, which are late, and what each holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Count, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from ohsessions.admin import display
from ohsessions.admin.filters import FieldFilter
from ohsessions.admin.operations import OperatedAdmin, Operation, action_of
from ohsessions.conf import conf
from ohsessions.models import Connection, Process, Session
from ohsessions.processes import leases

if TYPE_CHECKING:
    from ohsessions.admin.annotations import ProcessRow


ACTIVE = Process.State.ACTIVE
WITHOUT = {
    Process.Kind.WORKER: "No other worker is active: sessions with clients wait until you start one.",
    Process.Kind.GATEWAY: "No other gateway is active: no client can connect until you start one.",
}
"""The warning if no active process of a kind is left."""


class Drain(Operation):
    verb = "Drain"
    intro = (
        "A process that drains accepts nothing new, hands over its sessions or connections, and ends. If a"
        " supervisor starts it again, that is a restart. Otherwise it does not come back."
    )
    states = (ACTIVE,)

    def warnings(self, rows: Sequence[Process]) -> list[str]:
        living = leases.living()
        named = {row.pk for row in rows}
        same = {leases.identity(row) for row in rows}
        twins = [row for row in living if row.pk not in named and leases.identity(row) in same]
        said = [f"The {twin} is the same process, and ends with it." for twin in twins]
        ending = named | {twin.pk for twin in twins}
        for kind, meaning in WITHOUT.items():
            active = {row.pk for row in living if row.kind == kind and row.state == ACTIVE}
            if active and active <= ending:
                said.append(meaning)
        return said

    def consequence(self, row: ProcessRow) -> str:
        if row.kind == Process.Kind.GATEWAY:
            clients = display.plural(row.served_count, "client is", "clients are")
            return f"{clients} asked to connect to another gateway, without loss. Then it ends."
        owned = display.plural(row.owned_count, "session", "sessions")
        return (
            f"It owns {owned}, and waits up to {conf.PASSIVATE_TIMEOUT:g} s for their current actions."
            " Sessions with clients continue on another worker, and their clients stay connected. The others"
            " are passivated. Then it ends."
        )

    def do(self, key: UUID, by: str) -> str:
        return leases.request_drain(key, by=by)


DRAIN = Drain()


def counted(rows: QuerySet[Any], by: str) -> Coalesce:
    """Return an annotation that counts the `rows` that belong to each row of the outer query.

    It is a subquery and no join, so it is computed for the rows shown only.
    """
    groups = rows.filter(**{by: OuterRef("pk")}).order_by().values(by)
    return Coalesce(Subquery(groups.annotate(n=Count("pk")).values("n")), 0, output_field=IntegerField())


@admin.register(Process)
class ProcessAdmin(OperatedAdmin):
    list_display = (
        "name",
        "kind",
        "state_badge",
        "heartbeat_age",
        "load",
        "owned",
        "served",
        "version",
        "started",
    )
    operations = (DRAIN,)
    actions = tuple(map(action_of, operations))
    list_filter = (("kind", FieldFilter), ("state", FieldFilter))
    search_fields = ("host",)
    search_help_text = "Host, version or pid."
    fieldsets = (
        (None, {"fields": ("kind", "state_badge", "heartbeat_age", "load", "owned", "served")}),
        ("What it is", {"fields": ("host", "pid", "version", "started", "id")}),
        ("Raw", {"fields": ("heartbeat", "birth", "started_at", "seen_at"), "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        held: QuerySet[Any] = rows.annotate(
            owned_count=counted(Session.objects.all(), "worker"),
            served_count=counted(Connection.objects.attached(), "gateway"),
        )
        return held

    def search(self, request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        for word in term.split():
            pid = Q(pid=int(word)) if word.isascii() and word.isdigit() and len(word) < 10 else Q()
            rows = rows.filter(Q(host__icontains=word) | Q(version__icontains=word) | pid)
        return rows

    started = display.time_column("started_at", "started", ordering="started_at")

    def heading(self, row: Process) -> str:
        return f"{row.get_kind_display()} {row.address}"

    @admin.display(description="process", ordering="host")
    def name(self, row: Process) -> str:
        return format_html("{}<br>{}", row.address, display.identifier(row.pk))

    @admin.display(description="state", ordering="state")
    def state_badge(self, row: Process) -> str:
        return display.badge(row.state)

    @admin.display(description="heartbeat", ordering="seen_at")
    def heartbeat_age(self, row: Process) -> str:
        now = timezone.now()
        late = now - row.seen_at > timedelta(seconds=conf.LEASE_TTL) and row.state != Process.State.GONE
        text = display.relative(row.seen_at, now)
        return display.timed(row.seen_at, text, "oh-warning" if late else "oh-time")

    @admin.display(description="sessions", ordering="owned_count")
    def owned(self, row: ProcessRow) -> str:
        return display.count_link(row.owned_count, Session, worker=row.pk)

    @admin.display(description="connections", ordering="served_count")
    def served(self, row: ProcessRow) -> str:
        return display.count_link(row.served_count, Connection, gateway=row.pk, status="attached")
