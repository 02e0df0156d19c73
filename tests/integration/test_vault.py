"""Secrets of later INITs: permissions, replacement, and no cost for other INITs."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ohsessions import access, journal, lifecycle, vault
from ohsessions.access import Role
from ohsessions.core.errors import StaleSecrets, WireError
from ohsessions.core.redaction import Redactor
from ohsessions.journal import Append
from ohsessions.vault import MOST_FORMER
from tests.integration.world import World, action, append, init, session


def kept(session_id) -> dict[str, str]:
    return dict(vault.read(session_id).values)


def test_a_secret_of_a_later_init_replaces_that_of_its_name_and_no_other(world: World):
    session_id = world.open(args={"LLM_API_KEY": "sk-1"}, github_token="gh-1").change.session_id
    assert session(session_id).secrets_version == 1
    world.attach(session_id, github_token="gh-2", args={"nested": {"dsn": "d-1"}})
    row = session(session_id)
    assert row.secrets_version == 2
    assert kept(session_id) == {"llm_api_key": "sk-1", "github_token": "gh-2", "nested.dsn": "d-1"}
    assert not [secret for secret in ("sk-1", "gh-1", "gh-2", "d-1") if secret in row.secrets]
    assert row.settings == {}, "settings count only when a session is made"


def test_the_same_secret_again_changes_nothing(world: World):
    session_id = world.open(github_token="gh-1").change.session_id
    before = session(session_id)
    world.attach(session_id, github_token="gh-1")
    after = session(session_id)
    assert (after.secrets, after.secrets_version) == (before.secrets, 1)


def test_a_secret_that_was_replaced_is_still_cut_out(world: World):
    session_id = world.open(github_token="gh-first").change.session_id
    for number in range(MOST_FORMER + 5):
        world.attach(session_id, github_token=f"gh-{number:04}")
    texts = vault.read(session_id).texts
    newest = {f"gh-{number:04}" for number in range(4, MOST_FORMER + 5)}
    assert newest <= texts
    assert "gh-first" not in texts, "it does not grow for ever"


@pytest.mark.parametrize("payload", [{"role": "viewer"}, {"token": Role.VIEWER}])
def test_a_viewers_init_brings_no_secret(world: World, payload):
    session_id = world.open(github_token="gh-1").change.session_id
    if "token" in payload:
        payload = {"token": access.issue_token(session(session_id), payload["token"])}
    lifecycle.attach(world.socket(), init(github_token="gh-2", **payload), session_id)
    assert kept(session_id) == {"github_token": "gh-1"}
    assert session(session_id).secrets_version == 1


def test_an_editors_init_brings_secrets(world: World):
    session_id = world.open().change.session_id
    token = access.issue_token(session(session_id), Role.EDITOR)
    lifecycle.attach(world.socket(), init(github_token="gh-2", token=token), session_id)
    assert kept(session_id) == {"github_token": "gh-2"}
    assert session(session_id).secrets_version == 1


def test_a_closed_session_takes_no_secrets(world: World):
    session_id = world.open().change.session_id
    lifecycle.close(session_id, by="ann")
    world.attach(session_id, github_token="gh-2")
    assert session(session_id).secrets == ""


def test_more_secrets_than_a_row_should_have_are_refused_and_change_nothing(world: World, settings):
    settings.OHSESSIONS = {**settings.OHSESSIONS, "MAX_ACTION_BYTES": 100}
    session_id = world.open(github_token="gh-1" * 10).change.session_id
    before = session(session_id)
    with pytest.raises(WireError) as caught:
        world.attach(session_id, "late", args={"A_TOKEN": "x" * 61})
    assert (caught.value.code, caught.value.reason) == (413, "too_large")
    assert session(session_id).secrets == before.secrets
    world.attach(session_id, args={"A_TOKEN": "x" * 60})
    world.attach(session_id, args={"A_TOKEN": "y" * 60})
    assert vault.unseal(session(session_id).secrets).former == (), "what was replaced goes first"


def test_an_init_without_a_secret_costs_no_statement_for_secrets(world: World):
    session_id = world.open(github_token="gh-1").change.session_id

    def statements(**payload) -> list[str]:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            world.attach(session_id, **payload)
        return [query["sql"] for query in captured]

    plain, with_secret = statements(args={"LANGUAGE": "en"}), statements(github_token="gh-1")
    assert len(with_secret) == len(plain) + 1


def test_rows_of_older_versions_are_read(world: World):
    session_id = world.open().change.session_id
    row = session(session_id)
    row.secrets = access.encrypt('{"llm_api_key":"sk-1"}')
    row.save()
    assert kept(session_id) == {"llm_api_key": "sk-1"}


def test_what_older_versions_left_among_the_settings_is_cut_out(world: World):
    settings = {"openai_key": "sk-1", "llm": {"api_key": "sk-2"}, "model": "m"}
    known = vault.unlock(0, "", settings, "echo")
    assert known.texts == {"sk-1", "sk-2"}
    assert known.values == {}, "the runtime finds them where they were"


def test_a_title_is_stored_without_the_sessions_secrets(world: World):
    session_id = world.open(github_token="gh-7c2a").change.session_id
    assert lifecycle.rename(session_id, "Look for gh-7c2a").title == "Look for <secret>"
    assert session(session_id).title == "Look for <secret>"


# Actions that contain a known secret


def test_an_action_whose_gateway_does_not_know_the_newest_secrets_is_not_stored(world: World):
    session_id = world.open("a", github_token="gh-1").change.session_id
    stale = append(Append(session_id, [action()], sid="a", secrets_version=0))
    assert isinstance(stale, StaleSecrets)
    assert stale.version == 1
    assert append(Append(session_id, [action()], sid="a", secrets_version=1)).numbers == [0]


def test_an_action_stored_before_its_secret_was_known_is_the_same_one_afterwards(world: World):
    session_id = world.open("a").change.session_id
    redactor = Redactor(["gh-secret"])

    def clean(body: str) -> str:
        return redactor.redact(body)

    first = append(Append(session_id, [action("say gh-secret", write_key="c:1")], sid="a"))
    again = action("say <secret>", write_key="c:1", hidden='{"content":"say gh-secret"}', clean=clean)
    assert append(Append(session_id, [again], sid="a")).numbers == first.numbers
    other = action("do <secret>", write_key="c:1", hidden='{"content":"do gh-secret"}', clean=clean)
    assert append(Append(session_id, [other], sid="a")).reason == "client_id_reused"


def test_two_secrets_in_the_same_place_are_told_apart_while_the_action_is_kept(world: World):
    session_id = world.open("a").change.session_id
    first = action("say <secret>", write_key="c:1", hidden='{"content":"say gh-1"}')
    other = action("say <secret>", write_key="c:1", hidden='{"content":"say gh-2"}')
    assert append(Append(session_id, [first], sid="a")).numbers == [0]
    assert append(Append(session_id, [first], sid="a")).numbers == [0]
    assert append(Append(session_id, [other], sid="a")).reason == "client_id_reused"
    assert journal.read_action(session_id, 0)[0].args == {"content": "say gh-1"}
