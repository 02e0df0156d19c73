"""Admission to Socket.IO: the rules on Host, HTTPS and Origin, and their order."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings

from ohsessions.admission import admit, cookie_attributes, parse_origin
from ohsessions.socketio import RequestRefused

LOCAL = override_settings(DEBUG=True, ALLOWED_HOSTS=[])
OURS = override_settings(DEBUG=False, ALLOWED_HOSTS=["example.org", "[::1]"])


def scope(*headers: tuple[str, str], kind: str = "websocket", **fields: Any) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": kind, "path": "/socket.io/", "headers": pairs} | fields


def refusal(*headers: tuple[str, str], **fields: Any) -> int | None:
    """Return the status with which a request is refused, or None if it is let in."""
    try:
        admit(scope(*headers, **fields))
    except RequestRefused as refused:
        return refused.status
    return None


@pytest.mark.parametrize("host", ["localhost", "sub.localhost", "127.0.0.1:8000", "[::1]:8000", "LocalHost"])
def test_with_debug_and_no_allowed_hosts_the_local_names_are_ours(host: str):
    with LOCAL:
        assert refusal(("host", host)) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "a b", "[::1", "x,localhost"]
)
def test_any_other_host_is_refused_even_if_the_origin_agrees(host: str):
    with LOCAL:
        assert refusal(("host", host)) == 400
        assert refusal(("host", host), ("origin", f"http://{host}")) == 400
    with OURS:
        assert refusal(("host", host), ("origin", f"http://{host}")) == 400


def test_a_request_without_a_host_or_with_two_is_refused():
    with OURS:
        assert refusal() == 400
        assert refusal(("host", "example.org"), ("host", "example.org")) == 400


def test_a_forwarded_host_counts_only_where_django_takes_it():
    headers = (("host", "inner"), ("x-forwarded-host", "example.org"))
    with OURS:
        assert refusal(*headers) == 400
    with OURS, override_settings(USE_X_FORWARDED_HOST=True):
        assert refusal(*headers) is None
        assert refusal(*headers, ("origin", "https://example.org")) is None
        assert refusal(*headers, ("origin", "https://inner")) == 403
        assert refusal(("host", "example.org"), ("x-forwarded-host", "evil.example")) == 400


def test_a_page_of_our_own_that_is_not_listed_is_told_the_setting(caplog: pytest.LogCaptureFixture):
    """A site that lists only another site's origin shuts out its own pages, and the reason is hard to see."""
    with OURS, override_settings(OHSESSIONS={"ALLOWED_ORIGINS": ["https://other.example"]}):
        assert refusal(("host", "example.org"), ("origin", "https://example.org")) == 403
        assert "lacks this site's own origin" in caplog.text
        caplog.clear()
        assert refusal(("host", "example.org"), ("origin", "https://evil.example")) == 403
        assert "this site's own" not in caplog.text


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.org", "http://example.org"),
        ("example.org", "https://example.org"),
        ("Example.org", "HTTPS://EXAMPLE.ORG"),
        ("example.org:443", "https://example.org"),
        ("example.org", "https://example.org:443"),
        ("example.org:8000", "http://example.org:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("example.org", ""),
    ],
)
def test_a_page_of_our_own_host_may_connect(host: str, origin: str):
    with OURS:
        assert refusal(("host", host), ("origin", origin)) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://[",
        "http://]",
        "http://[::1",
        "null",
        "example.org",
        "//example.org",
        "http://",
        "http://evil.example",
        "http://example.org.evil.example",
        "http://example.org@evil.example",
        "http://example.org:8001",
        "http://example.org:99999999999",
        "http://example.org:port",
        "http://example.org/",
        "http://example.org, http://example.org",
        "http://exämple.org",
        "\x00",
    ],
)
def test_a_foreign_origin_or_what_is_none_is_refused(origin: str):
    with OURS:
        assert refusal(("host", "example.org"), ("origin", origin)) == 403
    listed = {"ALLOWED_ORIGINS": ["https://other.example"]}
    with OURS, override_settings(OHSESSIONS=listed):
        assert refusal(("host", "example.org"), ("origin", origin)) == 403


def test_listed_origins_are_compared_in_one_form_and_the_host_still_counts():
    with OURS, override_settings(OHSESSIONS={"ALLOWED_ORIGINS": ["https://Other.example:443"]}):
        assert refusal(("host", "example.org"), ("origin", "https://other.example")) is None
        assert refusal(("host", "example.org"), ("origin", "http://other.example")) == 403
        assert refusal(("host", "example.org"), ("origin", "https://example.org")) == 403
        assert refusal(("host", "evil.example"), ("origin", "https://other.example")) == 400


def test_a_star_allows_any_origin_but_nothing_that_is_none():
    with OURS, override_settings(OHSESSIONS={"ALLOWED_ORIGINS": ["*"]}):
        assert refusal(("host", "example.org"), ("origin", "https://anywhere.example")) is None
        assert refusal(("host", "example.org"), ("origin", "null")) is None
        assert refusal(("host", "example.org"), ("origin", "http://[")) == 403


@pytest.mark.parametrize(("kind", "plain", "secure"), [("http", "http", "https"), ("websocket", "ws", "wss")])
def test_a_site_for_https_refuses_what_came_without(kind: str, plain: str, secure: str):
    host = ("host", "example.org")
    with OURS, override_settings(SECURE_SSL_REDIRECT=True):
        assert refusal(host, kind=kind, scheme=plain) == 403
        assert refusal(host, kind=kind) == 403
        assert refusal(host, kind=kind, scheme=secure) is None
        assert refusal(host, ("x-forwarded-proto", "https"), kind=kind, scheme=plain) == 403
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            assert refusal(host, ("x-forwarded-proto", "https"), kind=kind, scheme=plain) is None
            assert refusal(host, ("x-forwarded-proto", "http"), kind=kind, scheme=plain) == 403
            assert refusal(host, kind=kind, scheme=plain) == 403
        with override_settings(SECURE_REDIRECT_EXEMPT=[r"^socket\.io/"]):
            assert refusal(host, kind=kind, scheme=plain) is None


def test_a_refusal_says_what_to_do():
    with OURS, pytest.raises(RequestRefused, match="ALLOWED_HOSTS"):
        admit(scope(("host", "evil.example")))
    with OURS, override_settings(SECURE_SSL_REDIRECT=True), pytest.raises(RequestRefused, match="wss://"):
        admit(scope(("host", "example.org")))


def test_an_origin_has_one_form():
    assert parse_origin("HTTP://Example.org.:80") == ("http", "example.org", "")
    assert parse_origin("https://example.org:8443") == ("https", "example.org", "8443")


@pytest.mark.parametrize(
    ("scheme", "origin", "attributes"),
    [
        ("http", None, "; Path=/socket.io; SameSite=Lax"),
        ("http", "http://other.example", "; Path=/socket.io; SameSite=Lax"),
        ("https", None, "; Path=/socket.io; Secure; SameSite=Lax"),
        ("https", "https://example.org:8443", "; Path=/socket.io; Secure; SameSite=Lax"),
        ("https", "https://other.example", "; Path=/socket.io; Secure; SameSite=None"),
    ],
)
def test_the_cookie_goes_to_another_site_only_where_browsers_take_it(
    scheme: str, origin: str | None, attributes: str
):
    headers = [("host", "example.org")] + ([("origin", origin)] if origin else [])
    with OURS:
        assert cookie_attributes(scope(*headers, kind="http", scheme=scheme)) == attributes
