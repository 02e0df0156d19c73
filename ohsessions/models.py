"""The tables. Rows have no rules: other modules decide which writes are allowed, and when.

Times named `_at` are of the database's clock. Numbers count a session's events from 0; -1 means none yet.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from ohsessions.core.policy import has_pending_work
from ohsessions.core.states import State
from ohsessions.core.titles import MAX_TITLE, clean_title


class TitleField(models.CharField):  # type: ignore[type-arg]
    """A title, cleaned when it is stored and when it is read: older rows may have characters now removed."""

    def from_db_value(self, value: str | None, *context: Any) -> str | None:
        return value if value is None else clean_title(value)

    def get_prep_value(self, value: Any) -> Any:
        return clean_title(value) if isinstance(value, str) else super().get_prep_value(value)


class SessionQuerySet(models.QuerySet["Session"]):
    def unowned(self) -> SessionQuerySet:
        """Return the starting and passivating sessions that no worker owns."""
        return self.filter(state__in=[State.STARTING, State.PASSIVATING], worker=None)

    def with_pending_work(self) -> SessionQuerySet:
        """See core.policy.has_pending_work()."""
        return self.filter(last_action_number__gt=F("handled_number"))


class Session(models.Model):
    """A lasting conversation between people and a runtime."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    visitor = models.CharField(
        max_length=32,
        blank=True,
        default="",
        db_default="",
        help_text="Keyed hash of the address from which it was made, if it has no owner.",
    )
    title = TitleField(max_length=MAX_TITLE, blank=True)
    runtime = models.CharField(max_length=100, help_text="Alias in the setting RUNTIMES.")
    state = models.CharField(max_length=20, choices=[(state.value, state.value) for state in State])
    reason = models.CharField(max_length=300, blank=True, help_text="Why it is in this state.")
    settings = models.JSONField(default=dict, blank=True)
    secrets = models.TextField(blank=True, help_text="Encrypted.")
    secrets_version = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Grows with each change of the secrets; 0 if there were never any."
    )
    init_key = models.CharField(
        max_length=64,
        null=True,
        unique=True,
        help_text="Digest of the user and client_id of its INIT. Repeating that INIT returns this session.",
    )

    next_number = models.BigIntegerField(default=0)
    first_number = models.BigIntegerField(default=0, help_text="Events with lower numbers were trimmed.")
    log_bytes = models.BigIntegerField(default=0, db_default=0, help_text="Size of the events' JSON.")
    last_action_number = models.BigIntegerField(default=-1)
    last_user_number = models.BigIntegerField(default=-1, help_text="Number of the last action or interrupt.")
    started_number = models.BigIntegerField(default=-1)
    handled_number = models.BigIntegerField(default=-1)
    interrupted_number = models.BigIntegerField(
        default=-1, help_text="The last interrupt that was delivered."
    )
    attempts = models.PositiveSmallIntegerField(
        default=0, help_text="How often the action with started_number was begun."
    )
    started_epoch = models.BigIntegerField(default=0, help_text="Epoch in which that action was begun last.")

    epoch = models.BigIntegerField(default=0)
    worker = models.ForeignKey(
        "Process", null=True, blank=True, on_delete=models.SET_NULL, related_name="sessions"
    )
    passivate_at = models.DateTimeField(
        null=True, blank=True, help_text="When it is due for passivation; null if it is not due."
    )
    forced_by = models.CharField(
        max_length=150,
        blank=True,
        help_text="The operator, or the quota, that passivates it despite its connections and actions.",
    )
    retry_at = models.DateTimeField(null=True, blank=True)
    crashes = models.PositiveIntegerField(default=0, help_text="Number of crashes in a row.")
    suspicion = models.PositiveIntegerField(
        default=0,
        db_default=0,
        help_text="Evidence that it crashes its workers; 8 or more may count as a crash.",
    )
    snapshot = models.JSONField(null=True, blank=True)
    snapshot_file = models.CharField(
        max_length=200, blank=True, help_text="File of a snapshot that is too large for this row."
    )
    token_version = models.PositiveIntegerField(default=1)

    created_at = models.DateTimeField()
    state_at = models.DateTimeField(help_text="When it came into this state.")
    active_at = models.DateTimeField(help_text="When its last event was stored.")

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-active_at"]
        permissions = [("revoke_links", "Can revoke the links to sessions")]
        indexes = [
            # No index has active_at: each append changes it, and would have to change the index too.
            models.Index(fields=["state", "worker", "state_at"], name="ohsessions_by_state_since"),
            models.Index(
                fields=["state", "state_at"], name="ohsessions_ownerless", condition=Q(owner__isnull=True)
            ),
            models.Index(
                fields=["passivate_at"], name="ohsessions_due", condition=Q(passivate_at__isnull=False)
            ),
            models.Index(fields=["visitor", "state"], name="ohsessions_by_visitor", condition=~Q(visitor="")),
            models.Index(
                fields=["state"],
                name="ohsessions_pending",
                condition=Q(last_action_number__gt=F("handled_number")),
            ),
        ]

    def __str__(self) -> str:
        # No title: Django prints this to people without permission to see sessions (histories, related rows).
        return str(self.id)

    @property
    def head(self) -> int:
        """The number of the last event, -1 if there is none."""
        return self.next_number - 1

    @property
    def has_pending_work(self) -> bool:
        return has_pending_work(self)


class LinkQuerySet(models.QuerySet["Link"]):
    def live(self, now: datetime) -> LinkQuerySet:
        """Return the links that are neither revoked nor expired, by their own rows alone."""
        return self.filter(revoked_at=None, expires_at__gt=now)


class Link(models.Model):
    """A shared link: with it, anybody may join its session in its role until the link ends.

    The token in the link is not stored: it is signed, and names this row.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="links")
    role = models.CharField(max_length=10)
    label = TitleField(
        max_length=100, blank=True, help_text="The person for whom it is, in its creator's words."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    parent = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="children",
        help_text="The link with which it was made. It ends when that link ends.",
    )
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = LinkQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.label or f"{self.role} link {str(self.pk)[:8]}"


class Process(models.Model):
    """A gateway or a worker, for as long as it lives. Its row is the lease of everything that it holds."""

    class Kind(models.TextChoices):
        GATEWAY = "gateway"
        WORKER = "worker"

    class State(models.TextChoices):
        ACTIVE = "active"
        DRAINING = "draining"
        GONE = "gone"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=10, choices=Kind)
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    birth = models.CharField(
        max_length=200,
        help_text="Boot, pid namespace and start time. With the pid they identify the process.",
    )
    version = models.CharField(max_length=50)
    heartbeat = models.BigIntegerField(default=0)
    load = models.PositiveIntegerField(default=0, help_text="Sessions owned, or connections served.")
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["-seen_at"]
        verbose_name_plural = "processes"
        indexes = [models.Index(fields=["state"], name="ohsessions_process_state")]

    def __str__(self) -> str:
        return f"{self.kind} {self.address} ({str(self.pk)[:8]})"

    @property
    def address(self) -> str:
        """The host and the pid. Containers may share both, so this is not unique."""
        return f"{self.host}:{self.pid}"


class ConnectionQuerySet(models.QuerySet["Connection"]):
    def attached(self) -> ConnectionQuerySet:
        return self.filter(session__isnull=False, ended_at=None)


class Connection(models.Model):
    """A client's socket that is, or was, attached to a session."""

    sid = models.CharField(max_length=64, unique=True)
    session = models.ForeignKey(
        Session, null=True, blank=True, on_delete=models.CASCADE, related_name="connections"
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    gateway = models.ForeignKey(Process, null=True, on_delete=models.SET_NULL, related_name="connections")
    transport = models.CharField(max_length=20)
    address = models.CharField(max_length=64, blank=True)
    user_agent = models.CharField(max_length=300, blank=True)
    role = models.CharField(max_length=10)
    token_version = models.PositiveIntegerField(default=1)
    link = models.ForeignKey(
        Link, null=True, blank=True, on_delete=models.SET_NULL, related_name="connections", db_index=False
    )
    connected_at = models.DateTimeField()
    attached_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=100, blank=True)
    sent_number = models.BigIntegerField(default=-1)

    objects = ConnectionQuerySet.as_manager()

    class Meta:
        ordering = ["-connected_at"]
        indexes = [
            models.Index(fields=["session"], name="ohsessions_attached", condition=Q(ended_at__isnull=True)),
            models.Index(fields=["gateway"], name="ohsessions_served", condition=Q(ended_at__isnull=True)),
            models.Index(fields=["link"], name="ohsessions_by_link", condition=Q(link__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.sid


class Event(models.Model):
    """One entry of a session's log. `data` is its JSON as sent over the wire, encoded once."""

    id = models.BigAutoField(primary_key=True)
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="events", db_index=False)
    number = models.BigIntegerField()
    source = models.CharField(max_length=20)
    kind = models.CharField(max_length=64, help_text="Its action or observation.")
    data = models.TextField()
    write_key = models.CharField(max_length=120)
    hidden_text = models.TextField(null=True, blank=True, help_text="Encrypted arguments; null once handled.")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["session", "number"]
        constraints = [
            models.UniqueConstraint(fields=["session", "number"], name="ohsessions_event_number"),
            models.UniqueConstraint(fields=["session", "write_key"], name="ohsessions_event_write_key"),
        ]
        indexes = [
            # The next action for a runtime may be behind any number of the runtime's own events.
            models.Index(
                fields=["session", "number"], name="ohsessions_event_action", condition=Q(source="user")
            ),
            models.Index(
                fields=["session"], name="ohsessions_event_hidden", condition=Q(hidden_text__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} #{self.number}"


class Transition(models.Model):
    """A session's change of state and its reason. Operators read it to explain an incident."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="transitions", db_index=False)
    origin = models.CharField(max_length=20, blank=True, db_column="from", verbose_name="from")
    target = models.CharField(max_length=20, db_column="to", verbose_name="to")
    reason = models.CharField(max_length=300, blank=True)
    by = models.CharField(max_length=200, blank=True)
    epoch = models.BigIntegerField()
    at = models.DateTimeField()

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["session", "-at"], name="ohsessions_transitions")]

    def __str__(self) -> str:
        return f"{self.origin or '–'} → {self.target}"
