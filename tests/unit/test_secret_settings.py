"""Secrets among settings, recognized by name, by declaration and by value; other settings are no secrets."""

from __future__ import annotations

import json

import pytest

from ohsessions.core.secret_settings import LONGEST_TEXT, cut_out, is_secret_name, mask_secrets, take_secrets

SECRET_NAMES = """
    openai_key OPENAI_API_KEY openaiKey apiKey X-Api-Key api_keys api_key_2 access_key aws_access_key_id
    aws_secret_access_key private_key sshKey ssh_key session_key signing_key encryption-key license_key
    passwd DB_PASSWORD dbPass passWord pwd db_pwd passphrase pass_phrase smtp_pass secret client_secret
    credentials authorization Proxy-Authorization auth basic_auth oauth auth_header cookie Set-Cookie
    bearer bearer_value dsn SENTRY_DSN token Github_Token githubToken id_token access_tokens tokens jwt gh_pat
    client_pem connection_string connectionString
""".split()  # noqa: SIM905
OTHER_NAMES = """
    max_input_tokens maxOutputTokens token_limit token_count tokens_used total_tokens tokenizer eos_token
    stop_tokens keyboard key keys sort_key orderKey primary_key foreign_key public_key ssh_public_key
    cache_key partition_key hotkey shortcut_key monkey keymap key_bindings bypass compass_width
    bypass_warnings author authors auth_type path pattern patience connection spawn model language
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_of_a_secret_is_known(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_another_name_is_no_secrets(name):
    assert not is_secret_name(name)


def test_secrets_are_taken_out_at_any_depth():
    settings = {
        "llm": {"api_key": "sk-1", "model": "m", "more": {"Password": "pw"}},
        "servers": [{"url": "u", "token": "t-1"}, {"url": "v", "token": "t-2"}],
        "env": [{"name": "API_KEY", "value": "k-1"}, {"name": "HOME", "value": "/"}],
    }
    assert take_secrets(settings) == (
        {
            "llm": {"model": "m", "more": {}},
            "servers": [{"url": "u"}, {"url": "v"}],
            "env": [{"name": "API_KEY"}, {"name": "HOME", "value": "/"}],
        },
        {
            "llm.api_key": "sk-1",
            "llm.more.Password": "pw",
            "servers.0.token": "t-1",
            "servers.1.token": "t-2",
            "env.0.value": "k-1",
        },
    )


def test_all_that_a_secrets_name_has_below_it_is_secret():
    settings = {"credentials": {"user": "ann", "retries": 3, "keys": ["a", "b"], "none": None}, "a": 1}
    secrets = {
        "credentials.user": "ann",
        "credentials.retries": "3",
        "credentials.keys.0": "a",
        "credentials.keys.1": "b",
    }
    assert take_secrets(settings) == ({"a": 1}, secrets)


def test_json_in_a_string_loses_its_secrets_and_keeps_the_rest():
    inner = json.dumps({"api_key": "sk-1", "model": "m"})
    settings = {"config": inner, "outer": json.dumps({"inner": inner}), "plain": '{"model": "m"}'}
    assert take_secrets(settings) == (
        {"config": '{"model":"m"}', "outer": json.dumps({"inner": '{"model":"m"}'}, separators=(",", ":"))}
        | {"plain": '{"model": "m"}'},
        {"config.api_key": "sk-1", "outer.inner.api_key": "sk-1"},
    )


@pytest.mark.parametrize(
    "value",
    [
        "https://ann:pa55@llm.example/v1",
        "postgres://ann:pa:55@db/x and https://plain.example/",
        "https://ghp_0123456789abcdefghij@github.com/a/b",
        "postgresql://db/x?password=pa55&sslmode=require",
        "Server=db;User=ann;Password=pa55;",
        "OPENAI_API_KEY=sk-1",
        "Bearer abc12345",
        "Authorization: Basic YW5uOnBhNTU=",
        "{'api_key': 'pa55'}",
        '{"api_key": "pa55", "cut": ',
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_value_that_has_a_secret_in_it_is_taken_whole(value):
    assert take_secrets({"base": value, "list": ["a", value]}) == (
        {"list": ["a", None]},
        {"base": value, "list.1": value},
    )
    assert "pa55" not in str(mask_secrets({"base": value}, "•"))


@pytest.mark.parametrize(
    "value",
    [
        "https://llm.example/v1?a=b",
        "ssh://git@example.org/a",
        "Your password: it must be long.",
        "The bearer of this",
        "a == b",
        "key=1",
        "x" * LONGEST_TEXT + "Bearer abc12345",
    ],
)
def test_another_value_stays(value):
    assert take_secrets({"base": value}) == ({"base": value}, {})
    assert mask_secrets({"base": value}, "•") == {"base": value}


def test_names_at_the_top_become_lower_case_after_their_capitals_have_told():
    settings = {"dbPass": "a", "eosToken": "</s>", "LLM_MODEL": "m", "More": {"Model": "n"}}
    assert take_secrets(settings) == (
        {"eostoken": "</s>", "llm_model": "m", "more": {"Model": "n"}},
        {"dbpass": "a"},
    )


def test_switches_and_counts_are_no_secrets_and_empty_ones_are_left_out():
    settings = {"use_token": True, "tokens": 500, "api_key": "", "password": None, "secret": {}}
    assert take_secrets(settings) == ({"use_token": True, "tokens": 500}, {})
    assert mask_secrets(settings, "•") == settings | {"secret": "•"}


def test_a_runtime_declares_names_at_any_depth_and_single_paths():
    settings = {"my_pin": 1234, "door": {"My_Pin": "5678", "code": "9"}, "code": "0"}
    assert take_secrets(settings, ("my_pin", "door.code")) == (
        {"door": {}, "code": "0"},
        {"my_pin": "1234", "door.My_Pin": "5678", "door.code": "9"},
    )
    assert mask_secrets(settings, "•", ("door.code",))["door"] == {"My_Pin": "5678", "code": "•"}


def test_json_too_deep_to_be_looked_through_does_no_harm():
    deep = "[" * 5000 + "]" * 5000
    assert take_secrets({"a": deep}) == ({"a": deep}, {})
    nested: object = {"api_key": "sk-1"}
    for _ in range(8):
        nested = {"a": json.dumps(nested)}
    settings, secrets = take_secrets({"a": nested})
    assert "sk-1" not in json.dumps(settings)
    assert len(secrets) == 1


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("https://ann:pa55word@db", "pa55word"),
        ("https://ann:pa%2F55@db", "pa/55"),
        ('{"private_key": "line 1\\nline 2"}', "line 1\nline 2"),
        ("line 1\nline 2", "line 1\\nline 2"),
        ("  padded  ", "padded"),
        ('it\'s "so"', 'it\'s \\"so\\"'),
    ],
)
def test_other_forms_of_a_secret_are_cut_out_too(secret, text):
    assert {secret, text} <= cut_out([secret])
