"""
Socket.IO 5 packets: `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`.

Owns the text form. The prefix is read when a packet arrives. The JSON of an event is read only when its turn
comes, since parsed JSON can take twenty times the memory of its text. Binary events are not supported; their
prefix is read, so that they can be refused by acknowledgement.
Source: https://github.com/socketio/socket.io-protocol
"""

import json
import math
import re
from dataclasses import dataclass
from enum import IntEnum
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Literal

from ohsessions.socketio.errors import PacketError, SocketIOError
from ohsessions.socketio.extent import exceeds, is_deeper

__all__ = [
    "Kind",
    "MalformedEvent",
    "MalformedEventError",
    "Packet",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_disconnect",
    "encode_event",
    "encode_event_json",
    "encode_json",
    "parse_auth",
    "parse_event",
    "parse_json",
    "parse_packet",
]

# Acknowledgement ids are JavaScript numbers; exact ones have at most 16 digits. Attachments are not kept, so
# their count needs no low limit. A query may follow a namespace; it is ignored.
_PREFIX = re.compile(
    r"(?P<kind>[0-6])"
    r"(?:(?P<attachments>[0-9]{1,10})-)?"
    r"(?:(?P<namespace>/[^,?]*)(?:\?[^,]*)?,?)?"
    r"(?P<ack_id>[0-9]{1,16})?"
)
# If a text has too many values, only this many of its characters are searched for too many levels.
FIRST_PART = 16 * 1024


class Kind(IntEnum):
    """The types of Socket.IO packets."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


# Levels of nesting: more than applications accept, including the array around an event's arguments.
MAX_DEPTH = 66

BINARY = (Kind.BINARY_EVENT, Kind.BINARY_ACK)


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet whose prefix has been read. `data` is the JSON text after the prefix; it may be empty."""

    kind: Kind
    namespace: str
    ack_id: int | None
    data: str
    attachments: int = 0


@dataclass(frozen=True, slots=True)
class MalformedEvent:
    """
    An event that arrived whole but cannot be handled. The connection stays open.

    `reason` is `not_json` (unparseable, NaN, infinite or over-long numbers, binary), `too_deep`, `too_large`
    (too many values), or `malformed` (no event name). `message` explains it to a person. `name` is the
    event's name, if it can be read.
    """

    reason: Literal["not_json", "too_deep", "too_large", "malformed"]
    message: str
    ack_id: int | None = None
    name: str | None = None


class MalformedEventError(SocketIOError):
    """A MalformedEvent, raised by the parser."""

    def __init__(self, problem: MalformedEvent) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _NotJSON(ValueError):
    """A value that Python's parser accepts, but JSON does not have."""


def _refuse_constant(word: str) -> float:
    raise _NotJSON(f"{word} is not a JSON value")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _NotJSON("a number is too large")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_ascii_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def parse_packet(text: str) -> Packet:
    """Read the prefix of a Socket.IO packet. Raises PacketError if the text is not such a packet."""
    match = _PREFIX.match(text)
    if match is None:
        raise PacketError("unknown packet type")
    kind_text, attachments, namespace, ack_id = match.groups()
    kind = Kind(int(kind_text))
    if (attachments is not None) != (kind in BINARY):
        raise PacketError("wrong number of attachments")
    data = text[match.end() :]
    if not _fits(kind, data):
        raise PacketError("wrong payload for the packet type")
    return Packet(
        kind, namespace or "/", int(ack_id) if ack_id else None, data, int(attachments) if attachments else 0
    )


def _fits(kind: Kind, data: str) -> bool:
    """Return True if the payload begins as the type requires. The rest of it is content, not framing."""
    if kind is Kind.CONNECT:
        return not data or data[0] == "{"
    if kind is Kind.DISCONNECT:
        return not data
    if kind is Kind.CONNECT_ERROR:
        return False
    return data[:1] == "["


def parse_json(text: str, max_values: int | None = None) -> Any:
    """
    Parse JSON strictly. `max_values` limits the number of values; None is no limit.

    Raises MalformedEventError if the text is not JSON, too deep, or has too many values.
    """
    is_large = max_values is not None and exceeds(text, max_values)
    # A text with too many values is refused anyway, and searching all of it would take long.
    if is_deeper(text[:FIRST_PART] if is_large else text, MAX_DEPTH):
        raise MalformedEventError(MalformedEvent("too_deep", "the JSON is nested too deeply"))
    if is_large:
        raise MalformedEventError(MalformedEvent("too_large", f"JSON may have at most {max_values} values."))
    try:
        return _decoder.decode(text)
    except _NotJSON as exc:
        raise MalformedEventError(MalformedEvent("not_json", str(exc))) from exc
    except RecursionError as exc:
        raise MalformedEventError(MalformedEvent("too_deep", "the JSON is nested too deeply")) from exc
    except json.JSONDecodeError as exc:
        problem = MalformedEvent("not_json", f"not JSON: {exc.msg} at character {exc.pos}")
        raise MalformedEventError(problem) from exc
    except ValueError as exc:  # an integer over sys.get_int_max_str_digits()
        raise MalformedEventError(MalformedEvent("not_json", "a number has too many digits")) from exc


def parse_event(packet: Packet, max_values: int | None = None) -> tuple[str, list[Any]]:
    """Return the name and the arguments of an EVENT. Raises MalformedEventError with the packet's ack id."""
    if packet.kind is Kind.BINARY_EVENT:
        message = "binary data is not supported"
        raise MalformedEventError(
            MalformedEvent("not_json", message, packet.ack_id, _name_at_start(packet.data))
        )
    try:
        args = parse_json(packet.data, max_values)
    except MalformedEventError as exc:
        found = exc.problem
        name = _name_at_start(packet.data)
        raise MalformedEventError(MalformedEvent(found.reason, found.message, packet.ack_id, name)) from exc
    name = args.pop(0) if args else None
    if not isinstance(name, str):
        raise MalformedEventError(
            MalformedEvent("malformed", "the event's name is not a string", packet.ack_id)
        )
    return name, args


def parse_auth(packet: Packet, max_values: int | None = None) -> Any:
    """Return the auth object of a CONNECT, empty if there is none. Raises MalformedEventError."""
    return parse_json(packet.data, max_values) if packet.data else {}


def _name_at_start(data: str) -> str | None:
    """Return the string at the start of an array, even if the text after it is not JSON; None without one."""
    if not data.startswith('["'):
        return None
    try:
        name, _ = scanstring(data, 2, True)
    except ValueError:
        return None
    return str(name)


def encode_json(value: object) -> str:
    """
    Return a value as compact JSON that can always be sent as UTF-8.

    Raises ValueError for NaN and infinity, TypeError for values that JSON cannot express.
    """
    text = _encoder.encode(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate can only be sent as an escape
            return _ascii_encoder.encode(value)
    return text


def _prefix(kind: Kind, namespace: str, ack_id: int | None = None) -> str:
    place = "" if namespace == "/" else namespace + ","
    return f"{kind:d}{place}{'' if ack_id is None else ack_id}"


def encode_event(name: str, *args: object, namespace: str = "/", ack_id: int | None = None) -> str:
    """Return an EVENT packet for Socket.send_text(). `ack_id` asks the client for an acknowledgement."""
    return _prefix(Kind.EVENT, namespace, ack_id) + encode_json([name, *args])


def encode_event_json(name: str, *args: str, namespace: str = "/") -> str:
    """Return an EVENT packet for Socket.send_text(), from arguments that are JSON text already."""
    return f"{_prefix(Kind.EVENT, namespace)}[{','.join([encode_json(name), *args])}]"


def encode_ack(namespace: str, ack_id: int, args: tuple[object, ...]) -> str:
    """Return an ACK packet."""
    return _prefix(Kind.ACK, namespace, ack_id) + encode_json(list(args))


def encode_connect(namespace: str, sid: str) -> str:
    """Return the answer to an accepted CONNECT."""
    return _prefix(Kind.CONNECT, namespace) + encode_json({"sid": sid})


def encode_connect_error(namespace: str, message: str, data: dict[str, Any] | None = None) -> str:
    """Return the answer to a refused CONNECT. Clients keep only `message` and `data`."""
    error = {"message": message} if data is None else {"message": message, "data": data}
    return _prefix(Kind.CONNECT_ERROR, namespace) + encode_json(error)


def encode_disconnect(namespace: str) -> str:
    """Return a DISCONNECT packet."""
    return _prefix(Kind.DISCONNECT, namespace)
