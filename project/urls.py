"""The pages of the reference site. Socket.IO is mounted beside Django, in project.asgi."""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("", views.console, name="console"),
    path("s/<uuid:session_id>", views.console, name="console-session"),
    path("admin/", admin.site.urls),
]
