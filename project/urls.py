"""The URLs of the reference site. Socket.IO is mounted beside Django, in project.asgi."""

from django.contrib import admin
from django.urls import include, path

from ohsessions.views import healthz, readyz

from . import views

urlpatterns = [
    path("", views.console, name="console"),
    path("s/<uuid:session_id>", views.console, name="console-session"),
    path("admin/", admin.site.urls),
    path("api/", include("ohsessions.urls")),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
]
