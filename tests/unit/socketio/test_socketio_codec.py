"""Golden strings of Socket.IO packets, and the handling of malformed ones."""

import json
import math

import pytest

from ohsessions.socketio import codec
from ohsessions.socketio.codec import Kind, MalformedEvent, MalformedEventError, Packet
from ohsessions.socketio.errors import PacketError


def malformed(text: str) -> MalformedEvent:
    with pytest.raises(MalformedEventError) as caught:
        codec.parse_event(codec.parse_packet(text))
    return caught.value.problem


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0", Packet(Kind.CONNECT, "/", None, "")),
        ('0{"token":"123"}', Packet(Kind.CONNECT, "/", None, '{"token":"123"}')),
        ("0/custom,", Packet(Kind.CONNECT, "/custom", None, "")),
        ("0/custom", Packet(Kind.CONNECT, "/custom", None, "")),
        ('0/custom?a=b,{"t":1}', Packet(Kind.CONNECT, "/custom", None, '{"t":1}')),
        ("1/custom,", Packet(Kind.DISCONNECT, "/custom", None, "")),
        ('2["a",1]', Packet(Kind.EVENT, "/", None, '["a",1]')),
        ('2/custom,456["a"]', Packet(Kind.EVENT, "/custom", 456, '["a"]')),
        ("312[]", Packet(Kind.ACK, "/", 12, "[]")),
        (
            '52-["a",{"_placeholder":true,"num":0}]',
            Packet(Kind.BINARY_EVENT, "/", None, '["a",{"_placeholder":true,"num":0}]', 2),
        ),
        ("61-/custom,13[]", Packet(Kind.BINARY_ACK, "/custom", 13, "[]", 1)),
    ],
)
def test_a_packet_is_read(text: str, packet: Packet) -> None:
    assert codec.parse_packet(text) == packet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "7",
        "2",
        "2{}",
        '2"a"',
        '2abc["a"]',
        '21-["a"]',
        '5["a"]',
        '4{"message":"a client cannot refuse"}',
        "1[]",
        "0[]",
        "299999999999999999[]",
        '2٣["a"]',
    ],
)
def test_what_is_no_packet_is_refused(text: str) -> None:
    with pytest.raises(PacketError):
        codec.parse_packet(text)


def test_an_event_is_its_name_and_its_arguments() -> None:
    packet = codec.parse_packet('27["message",1,"2",{"3":[true]}]')
    assert codec.parse_event(packet) == ("message", [1, "2", {"3": [True]}])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_a_number_that_json_or_nobody_can_hold_is_malformed_and_can_be_acknowledged(number: str) -> None:
    problem = malformed(f'27["oh_action",{{"a":{number}}}]')
    assert (problem.reason, problem.ack_id, problem.name) == ("not_json", 7, "oh_action")


@pytest.mark.parametrize(
    "data", ['["oh_action",{]', '["oh_action"', '["oh_action",1] 2', '["oh_action","\x01"]']
)
def test_unparseable_json_is_malformed_and_keeps_its_ack_id_and_name(data: str) -> None:
    problem = malformed("2/custom,8" + data)
    assert (problem.reason, problem.ack_id, problem.name) == ("not_json", 8, "oh_action")


def test_json_deeper_than_the_parser_goes_is_malformed() -> None:
    problem = malformed('21["a",' + "[" * 100_000 + "]" * 100_000 + "]")
    assert problem == MalformedEvent("too_deep", "the JSON is nested too deeply", 1, "a")


@pytest.mark.parametrize("data", ["[]", "[1]", "[null,2]", '[["a"]]'])
def test_an_event_without_a_name_is_malformed(data: str) -> None:
    assert malformed("2" + data) == MalformedEvent("malformed", "the event's name is not a string")


def test_a_binary_event_is_malformed_and_can_be_acknowledged() -> None:
    problem = malformed('51-9["oh_action",{"_placeholder":true,"num":0}]')
    assert problem == MalformedEvent("not_json", "binary data is not supported", 9, "oh_action")


@pytest.mark.parametrize("data", ['["\\ud800', '["', "[", '["\\u12'])
def test_a_name_that_cannot_be_told_is_none(data: str) -> None:
    assert malformed("2" + data).name is None


def test_packets_are_written() -> None:
    assert codec.encode_event("oh_event", {"id": 1, "é": "\u2028"}) == '2["oh_event",{"id":1,"é":"\u2028"}]'
    assert codec.encode_event("a", namespace="/custom", ack_id=3) == '2/custom,3["a"]'
    assert codec.encode_event_json("oh_event", '{"id": 1}', "2") == '2["oh_event",{"id": 1},2]'
    assert codec.encode_ack("/", 456, (1, "2", {"3": [False]})) == '3456[1,"2",{"3":[false]}]'
    assert codec.encode_ack("/custom", 0, ()) == "3/custom,0[]"
    assert codec.encode_connect("/custom", "abc") == '0/custom,{"sid":"abc"}'
    assert (
        codec.encode_connect_error("/random", "Invalid namespace")
        == '4/random,{"message":"Invalid namespace"}'
    )
    assert codec.encode_connect_error("/", "no", {"a": 1}) == '4{"message":"no","data":{"a":1}}'
    assert codec.encode_disconnect("/") == "1"
    assert codec.encode_disconnect("/custom") == "1/custom,"


def test_a_lone_surrogate_is_written_so_that_utf8_can_carry_it() -> None:
    text = codec.encode_json({"a": "é\ud800"})
    assert text == '{"a":"\\u00e9\\ud800"}'
    assert json.loads(text.encode()) == {"a": "é\ud800"}


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_nan_and_infinity_are_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.encode_json(value)


def test_a_text_with_too_many_values_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohsessions.socketio.codec._decoder", None)
    packet = codec.parse_packet('27["name",' + "{}," * 100 + "{}]")
    with pytest.raises(MalformedEventError) as caught:
        codec.parse_event(packet, 100)
    problem = caught.value.problem
    assert (problem.reason, problem.ack_id, problem.name) == ("too_large", 7, "name")


def test_a_text_that_is_too_deep_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohsessions.socketio.codec._decoder", None)
    with pytest.raises(MalformedEventError) as caught:
        codec.parse_event(codec.parse_packet('2["name",' + "[" * 66 + "]" * 66 + "]"))
    assert caught.value.problem.reason == "too_deep"
