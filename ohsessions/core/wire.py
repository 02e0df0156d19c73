"""Every payload of the protocol: reading, checking and writing it. See docs/protocol.md.

Input may be anything; output has one of the shapes of the protocol. Events are encoded here, once: the text
made by `encode` is stored, replayed and sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ohsessions.core.errors import InvalidEvent, WireError
from ohsessions.core.redaction import Redactor
from ohsessions.core.runtime import JSON
from ohsessions.core.secret_settings import take_secrets
from ohsessions.core.strict_json import MAX_DEPTH
from ohsessions.core.strict_json import check_json as check_json
from ohsessions.core.strict_json import encode as encode

ACTION_EVENTS = frozenset({"oh_action", "oh_user_action"})
INTERRUPTS = frozenset({"change_agent_state"})
"""Actions that concern the running action. They are delivered at once."""
EVENT_SLACK = 64 * 1024
"""Bytes that an event may have beyond two of the largest actions."""
MAX_CLIENT_ID = 64
MIN_INIT_CLIENT_ID = 16
_CURSOR = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Init:
    """A request to be attached. `cursor`: the last event that the client has, -1 for none;
    `cursor_timestamp`: that event's timestamp, if the client sent it."""

    settings: dict[str, JSON]
    secrets: dict[str, str]
    runtime: str | None
    token: str | None
    cursor: int
    client_id: str | None
    batch: bool
    as_viewer: bool
    cursor_timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """An action for the session's runtime. `body`: its stored form without id and timestamp, encoded;
    `hidden`: the encoded real arguments, if they are to be hidden."""

    type: str
    client_id: str | None
    body: str
    hidden: str | None

    @property
    def is_interrupt(self) -> bool:
        return self.type in INTERRUPTS


@dataclass(frozen=True, slots=True)
class Leave:
    """A request to detach and keep the socket."""


@dataclass(frozen=True, slots=True)
class Close:
    """A request to end the session for good."""


Request = Init | Act | Leave | Close


def parse_request(args: list[Any], *, max_bytes: int) -> Request:
    """Return the request in the arguments of an `oh_action`. Raises WireError 400 or 413."""
    if len(args) != 1 or not isinstance(args[0], dict):
        raise malformed("Send exactly one JSON object with an oh_action.")
    payload: dict[str, JSON] = args[0]
    try:
        text = check_json(payload)
        kind = payload.get("action")
        if not isinstance(kind, str) or not kind or len(kind) > 64:
            raise malformed("An oh_action needs the key `action`: a string of 1 to 64 characters.")
        client_id = _client_id(payload.get("client_id"))
        if len(text.encode()) > max_bytes:
            raise WireError(413, "too_large", f"An action may have at most {max_bytes} bytes as JSON.")
        if kind == "initialize":
            return _parse_init(payload, client_id)
        if kind in ("leave", "close"):
            return Leave() if kind == "leave" else Close()
        return _parse_act(kind, payload, client_id)
    except WireError as error:
        # The client_id in the answer shows the sender which action it is about.
        client_id = payload.get("client_id")
        if isinstance(client_id, str) and client_id.isprintable():
            error.extra.setdefault("client_id", client_id[:MAX_CLIENT_ID])
        raise


def malformed(message: str) -> WireError:
    return WireError(400, "malformed", message)


def _client_id(value: JSON) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CLIENT_ID:
        raise malformed(f"client_id must be a string of 1 to {MAX_CLIENT_ID} characters.")
    return value


def _parse_init(payload: dict[str, JSON], client_id: str | None) -> Init:
    args = payload.get("args")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise malformed("The args of an INIT must be an object or null.")
    token = payload.get("token")
    if token is not None and not isinstance(token, str):
        raise malformed("The token must be a string or null.")
    if client_id is not None and len(client_id) < MIN_INIT_CLIENT_ID:
        raise malformed(f"The client_id of an INIT must be {MIN_INIT_CLIENT_ID} random characters or more.")
    named = {"github_token": payload.get("github_token")} | args
    if payload.get("selected_repository") is not None:
        named["selected_repository"] = payload["selected_repository"]
    settings, secrets = take_secrets(named)
    runtime = settings.pop("runtime", None)
    if runtime is not None and not isinstance(runtime, str):
        raise WireError(400, "unknown_runtime", "args.runtime must be a string, the alias of a runtime.")
    return Init(
        settings=settings,
        secrets=secrets,
        runtime=runtime,
        token=token or None,
        cursor=parse_cursor(payload.get("latest_event_id")),
        client_id=client_id,
        batch=payload.get("replay") == "batch",
        as_viewer=payload.get("role") == "viewer",
        cursor_timestamp=parse_cursor_timestamp(payload.get("latest_event_timestamp")),
    )


def parse_cursor(value: JSON) -> int:
    """Return the cursor in `latest_event_id`, an integer or its decimal string; -1 for anything else."""
    if isinstance(value, str) and _CURSOR.fullmatch(value):
        # int() accepts some thousand digits at most.
        value = int(value[:1000])
    if isinstance(value, bool) or not isinstance(value, int):
        return -1
    return max(value, -1)


def parse_cursor_timestamp(value: JSON) -> str | None:
    """Return `latest_event_timestamp` if it is a string, else None, as if it had not been sent."""
    return value if isinstance(value, str) else None


def _parse_act(kind: str, payload: dict[str, JSON], client_id: str | None) -> Act:
    args = payload.get("args")
    if args is None:
        args = {}
    if not isinstance(args, dict):
        raise malformed("The args of an action must be an object or null.")
    hidden = None
    if is_hidden(args):
        hidden = encode(args)
        args = {key: _emptied(value) for key, value in args.items()} | {"hidden": True}
    body = encode({"source": "user", "message": _describe(kind, args), "action": kind, "args": args})
    return Act(type=kind, client_id=client_id, body=body, hidden=hidden)


_NOT_HIDDEN = frozenset({"", "0", "false", "no", "off", "none", "null"})


def is_hidden(args: Mapping[str, JSON]) -> bool:
    """Return whether `hidden` asks to hide an action: it is true, 1, "true" or anything but a "no"."""
    value = args.get("hidden")
    return value.strip().lower() not in _NOT_HIDDEN if isinstance(value, str) else bool(value)


def redact_body(body: str, redactor: Redactor) -> str:
    """Return the body of an action without secrets; the same text if its arguments contain none."""
    if not redactor.spans(body):
        return body
    content = json.loads(body)
    args = redactor.redact_json(content["args"])
    if args == content["args"]:
        return body
    return encode(content | {"message": redactor.redact(content["message"]), "args": args})


def redact_act(act: Act, redactor: Redactor) -> Act:
    """Return an action that is stored and shown without secrets. Its runtime gets the real arguments."""
    body = redact_body(act.body, redactor)
    if body == act.body:
        return act
    return replace(act, body=body, hidden=act.hidden or encode(json.loads(act.body)["args"]))


def _emptied(value: JSON) -> JSON:
    return type(value)() if isinstance(value, str | list | dict) else None


def _describe(kind: str, args: dict[str, JSON]) -> str:
    """Return one line for people, as OpenHands words it."""
    if kind == "message" and isinstance(args.get("content"), str):
        return str(args["content"])
    if kind == "run" and isinstance(args.get("command"), str) and args["command"]:
        return f"Running command: {args['command']}"
    return ""


def timestamp(moment: datetime) -> str:
    """Return a time as `2026-11-22T10:00:00.000000+00:00`, always in UTC and with six digits.

    A moment without a zone is this process's local time, as Django stores it with USE_TZ off.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def stamp(body: str, number: int, moment: datetime) -> str:
    """Return the stored and sent form of an event: its encoded `body` with `id` and `timestamp` in front."""
    return stamp_prefix(number, timestamp(moment)) + body[1:]


def stamp_prefix(number: int, timestamp: str) -> str:
    """Return the text with which the stored form of the event of this number and timestamp begins."""
    return f'{{"id":{number},"timestamp":"{timestamp}",'


def unstamp(data: str) -> str:
    """Return the body that `stamp` was given, for comparing contents."""
    return "{" + data.split(",", 2)[2]


def event_body(
    *,
    observation: str | None = None,
    action: str | None = None,
    content: str = "",
    args: Mapping[str, JSON] | None = None,
    extras: Mapping[str, JSON] | None = None,
    message: str = "",
    source: str = "agent",
    cause: int | None = None,
) -> str:
    """Return the encoded body of an event that a runtime emits: an observation, or an action of the agent.

    Raises InvalidEvent if it is neither or both, has an unknown source, or cannot be JSON.
    """
    if (observation is None) == (action is None):
        raise InvalidEvent("An event is an observation or an action: pass exactly one of the two.")
    if source not in ("agent", "environment", "user"):
        raise InvalidEvent(f"The source of an event must be agent, environment or user, not {source!r}.")
    body: dict[str, JSON] = {"source": source, "message": message}
    if cause is not None:
        body["cause"] = cause
    if observation is not None:
        body |= {"observation": observation, "content": content, "extras": dict(extras or {})}
    else:
        body |= {"action": action, "args": dict(args or {})}
    try:
        # An event may be nested more deeply than an action, because it may contain one: those of echo do.
        return check_json(body, 2 * MAX_DEPTH)
    except WireError as error:
        raise InvalidEvent(f"The event cannot be sent as JSON. {error.message}") from error


def most_event_bytes(max_action_bytes: int) -> int:
    """Return the most bytes that an event may have as JSON: an echo has an action's content twice."""
    return 2 * max_action_bytes + EVENT_SLACK


def stored_error(reason: str, message: str, cause: int | None) -> str:
    """Return the body of a stored observation that tells a session's users of an error."""
    return event_body(
        observation="error",
        content=message,
        message=message,
        extras={"reason": reason},
        source="environment",
        cause=cause,
    )


def agent_state(state: str) -> str:
    """Return the body of the stored observation with the agent's state."""
    return event_body(observation="agent_state_changed", extras={"agent_state": state}, source="environment")


def first_answer(
    *, token: str, session_id: str, state: str, role: str, head: int, first_event_id: int | None
) -> dict[str, JSON]:
    """Return the answer to INIT. `first_event_id`: where replay starts if the cursor was not valid."""
    answer: dict[str, JSON] = {
        "token": token,
        "status": "ok",
        "session_id": session_id,
        "state": state,
        "role": role,
        "head": head,
        "reset": first_event_id is not None,
    }
    if first_event_id is not None:
        answer["first_event_id"] = first_event_id
    return answer


def error_event(error: WireError) -> dict[str, JSON]:
    """Return an error as an `oh_event`. OpenHands' client reads `error` and `error_code`."""
    flag: JSON = True
    if error.code == 401:
        flag = "Invalid token" if error.reason == "invalid_token" else "Login required"
    return {"error": flag} | _error_fields(error)


def error_ack(error: WireError) -> dict[str, JSON]:
    """Return an error as the acknowledgement of the action that it is about."""
    return {"status": "error"} | _error_fields(error)


def _error_fields(error: WireError) -> dict[str, JSON]:
    fields = {"error_code": error.code, "reason": error.reason, "message": error.message}
    return fields | error.extra


def status(kind: str, identifier: str, message: str) -> dict[str, JSON]:
    """Return a status for people, which is not stored. `kind` is info or error."""
    return {"status_update": True, "type": kind, "id": f"STATUS${identifier}", "message": message}


def notice(kind: str, **fields: JSON) -> dict[str, JSON]:
    """Return one flat object for `oh_notice`."""
    return {"notice": kind} | fields


def event_packet(data: str) -> str:
    """Return the Socket.IO packet that carries one encoded event as `oh_event`."""
    return f'2["oh_event",{data}]'


def batch_packet(data: list[str]) -> str:
    """Return the Socket.IO packet that carries many encoded events as `oh_events`."""
    return f'2["oh_events",[{",".join(data)}]]'
