"""The ASGI application: Django's pages, and ohsessions at ``/socket.io/``."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()

from ohsessions.routing import mount  # noqa: E402 - the app registry must be ready before models are imported

application = mount(django_application)
