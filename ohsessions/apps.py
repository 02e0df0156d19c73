"""The configuration of the Django app. It registers the system checks."""

from django.apps import AppConfig


class OhsessionsConfig(AppConfig):
    name = "ohsessions"
    verbose_name = "Agent sessions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, database_checks, exposure  # noqa: F401
