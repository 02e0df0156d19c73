"""An operator in the admin, who logs in over HTTP and answers the confirmation pages."""

from __future__ import annotations

import re

import requests

from tests.acceptance.site import Site

PASSWORD = "for tests only"
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


class Operator:
    """A superuser. `site` is any process that serves the admin."""

    def __init__(self, site: Site) -> None:
        self.url = site.url
        self.http = requests.Session()
        site.environment["DJANGO_SUPERUSER_PASSWORD"] = PASSWORD
        site.manage("createsuperuser", "--noinput", "--username", "op", "--email", "op@example.net")
        page = self.read("/admin/login/")
        login = {**dict(HIDDEN.findall(page)), "username": "op", "password": PASSWORD, "next": "/admin/"}
        assert "Log out" in self._post("/admin/login/", login)

    def select(self, table: str, action: str, *keys: str) -> str:
        """Select an action for some rows of a list, and confirm it. Return the next page."""
        address = f"/admin/ohsessions/{table}/"
        chosen = {**dict(HIDDEN.findall(self.read(address))), "action": action, "_selected_action": keys}
        page = self._post(address, chosen)
        form = re.search(r'<form method="post" action="([^"]+)" class="oh-confirm">', page)
        assert form, page
        return self._post(form[1], HIDDEN.findall(page[form.start() :]))

    def read(self, address: str) -> str:
        answer = self.http.get(self.url + address, timeout=20)
        answer.raise_for_status()
        return answer.text

    def _post(self, address: str, form: object) -> str:
        answer = self.http.post(self.url + address, data=form, timeout=20)
        answer.raise_for_status()
        return answer.text
