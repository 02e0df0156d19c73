"""People who log in to a site over HTTP, as a browser does, and use its API."""

from __future__ import annotations

import re
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.acceptance.site import Site

PASSWORD = "for tests only"
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


def make_user(site: Site, name: str) -> None:
    """Make a member of staff, since the login of the reference site is that of the admin."""
    code = (
        "from django.contrib.auth import get_user_model as m;"
        f"m().objects.create_user({name!r}, password={PASSWORD!r}, is_staff=True)"
    )
    site.manage("shell", "-v", "0", "-c", code)


class _From(HTTPAdapter):
    """An adapter that connects from an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, source_address=(self.address, 0))  # type: ignore[no-untyped-call]


class Person:
    """A person with a browser of their own. `site` is any gateway."""

    def __init__(self, site: Site, name: str | None = None) -> None:
        self.site = site
        self.name = name
        self.http = requests.Session()
        if name is not None:
            self.log_in()

    def log_in(self) -> None:
        assert self.name is not None
        answer = self.try_password(self.name, PASSWORD)
        assert answer.status_code == 302, answer.text

    def try_password(self, name: str, password: str, address: str | None = None) -> requests.Response:
        """Send the form of the login page from `address`, one of this machine's addresses."""
        if address is not None:
            self.http.mount("http://", _From(address))
        url = f"{self.site.url}/admin/login/"
        form = dict(HIDDEN.findall(self.http.get(url, timeout=20).text))
        form |= {"username": name, "password": password, "next": "/"}
        return self.http.post(url, data=form, timeout=20, allow_redirects=False)

    def log_out(self) -> None:
        form = {"csrfmiddlewaretoken": self.http.cookies["csrftoken"]}
        answer = self.http.post(f"{self.site.url}/admin/logout/", data=form, timeout=20)
        assert answer.status_code == 200, answer.text

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers with the cookies, for a socket."""
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())}

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> requests.Response:
        """Send a request to the API at ``sessions/<path>``."""
        headers = {"X-CSRFToken": self.http.cookies.get("csrftoken", "")}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        address = f"{self.site.url}/api/sessions/{path}"
        return self.http.request(method, address, json=body, headers=headers, timeout=20)

    def share(self, session_id: str, role: str = "editor", token: str | None = None, **body: Any) -> str:
        """Share a session by a link, and return the link's token."""
        answer = self.ask("POST", f"{session_id}/share/", {"role": role} | body, token)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def links(self, session_id: str, token: str | None = None) -> list[dict[str, Any]]:
        answer = self.ask("GET", f"{session_id}/links/", token=token)
        assert answer.status_code == 200, answer.text
        listed: list[dict[str, Any]] = answer.json()["links"]
        return listed
