"""The URLs of the JSON API. A site includes them: ``path("api/", include("ohsessions.urls"))``."""

from django.urls import path

from . import views

app_name = "ohsessions"
urlpatterns = [
    path("sessions/", views.sessions, name="sessions"),
    path("sessions/<uuid:session_id>/", views.session, name="session"),
    path("sessions/<uuid:session_id>/share/", views.share, name="share"),
    path("sessions/<uuid:session_id>/links/", views.links, name="links"),
    path("sessions/<uuid:session_id>/links/<uuid:link_id>/", views.link, name="link"),
    # Clients get JSON for unknown addresses, too.
    path("sessions/<path:rest>", views.nothing, name="nothing"),
]
