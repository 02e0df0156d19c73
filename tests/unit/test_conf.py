"""Settings are read at each use, and each has a default that works."""

from pathlib import Path

import pytest
from django.test import override_settings

from ohsessions.conf import Settings, conf


def test_defaults_hold_where_the_site_says_nothing():
    with override_settings(OHSESSIONS={}):
        assert conf.CLOSE_DELAY == 15
        assert conf.LEASE_TTL >= 3 * conf.HEARTBEAT
        assert conf.DEFAULT_RUNTIME == "echo"
        assert conf.SECRETS_KEYS == []


def test_a_site_without_the_setting_has_the_defaults(settings):
    del settings.OHSESSIONS
    assert conf.CLOSE_DELAY == 15


def test_a_changed_setting_is_seen_at_once_and_its_end_too():
    with override_settings(OHSESSIONS={"CLOSE_DELAY": None}):
        assert conf.CLOSE_DELAY is None
        with override_settings(OHSESSIONS={"CLOSE_DELAY": 0}):
            assert conf.CLOSE_DELAY == 0
        assert conf.CLOSE_DELAY is None


@pytest.mark.parametrize("debug", [True, False])
def test_anonymous_sessions_follow_debug_unless_the_site_says_so(debug):
    with override_settings(DEBUG=debug, OHSESSIONS={}):
        assert conf.ALLOW_ANONYMOUS is debug
    with override_settings(DEBUG=debug, OHSESSIONS={"ALLOW_ANONYMOUS": not debug}):
        assert conf.ALLOW_ANONYMOUS is not debug


def test_default_runtime_is_the_first_alias_unless_the_site_says_so():
    runtimes = {"b": {"BACKEND": "x.B"}, "a": {"BACKEND": "x.A"}}
    with override_settings(OHSESSIONS={"RUNTIMES": runtimes}):
        assert conf.DEFAULT_RUNTIME == "b"
    with override_settings(OHSESSIONS={"RUNTIMES": runtimes, "DEFAULT_RUNTIME": "a"}):
        assert conf.DEFAULT_RUNTIME == "a"


def test_workspaces_lie_in_the_site_or_in_the_temporary_directory(tmp_path, settings):
    with override_settings(BASE_DIR=tmp_path, OHSESSIONS={}):
        assert Path(conf.WORKSPACE_ROOT).relative_to(tmp_path).parts == ("var", "workspaces")
    del settings.BASE_DIR
    with override_settings(OHSESSIONS={}):
        assert Path(conf.WORKSPACE_ROOT).parent.name == "ohsessions"


def test_an_unknown_setting_is_an_attribute_error():
    with pytest.raises(AttributeError):
        _ = conf.CLOSE_DELY


def test_every_setting_is_documented_in_docs():
    names = {name for name in (*vars(Settings), *Settings.__annotations__) if name.isupper()}
    docs = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    assert {name for name in names if f"`{name}`" not in docs} == set()
