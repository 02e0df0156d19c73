"""The JSON API. A site includes it where it likes: ``path("api/", include("ohsessions.urls"))``."""

from django.urls import path

from . import views

app_name = "ohsessions"
urlpatterns = [
    path("sessions/", views.sessions, name="sessions"),
    path("sessions/<uuid:session_id>/", views.session, name="session"),
    path("sessions/<uuid:session_id>/share/", views.share, name="share"),
    path("sessions/<uuid:session_id>/links/", views.links, name="links"),
    path("sessions/<uuid:session_id>/links/<uuid:link_id>/", views.link, name="link"),
    # Programs read JSON, also where there is nothing.
    path("sessions/<path:rest>", views.nothing, name="nothing"),
]
