"""The dialogue without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.ws import protocol as p


def receive(frame: object, dialogue: p.Dialogue | None = None) -> p.Frame | p.Refusal:
    data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    return (dialogue or p.Dialogue(10_000)).receive(data)


def refused(frame: object) -> dict[str, Any]:
    answer = receive(frame)
    assert isinstance(answer, p.Refusal), answer
    body: dict[str, Any] = json.loads(answer.frame)
    assert body["type"] == "error"
    return body


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        ({"type": "ping"}, p.Ping()),
        ({"type": "subscribe"}, p.Subscribe()),
        ({"type": "subscribe", "session_id": "a", "cursor": "0"}, p.Subscribe("a", "0")),
        ({"type": "unsubscribe", "session_id": "a"}, p.Unsubscribe("a")),
        ({"type": "send", "content": "hi", "message_id": "m"}, p.Send("hi", "m")),
        (
            {"type": "send", "content": [{"type": "text"}], "message_id": "m", "literal": True},
            p.Send([{"type": "text"}], "m", None, True),
        ),
        ({"type": "interrupt"}, p.Interrupt()),
        ({"type": "permission", "request_id": "r", "decision": "deny"}, p.AnswerPermission("r", "deny")),
        ({"type": "set_model", "value": "opus"}, p.SetModel("opus")),
        ({"type": "set_permission_mode", "value": "plan"}, p.SetPermissionMode("plan")),
    ],
)
def test_each_frame_is_a_command(frame: object, command: p.Frame) -> None:
    assert receive(frame) == command


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"5",
        b'{"type":"ping"} x',
        b"[" * 9000,
        {"typ": "ping"},
        {"type": "pong"},
        {"type": 5},
        {"type": "ping", "extra": 1},
        {"type": "send", "content": "hi"},
        {"type": "send", "message_id": "m"},
        {"type": "send", "content": 5, "message_id": "m"},
        {"type": "send", "content": ["x"], "message_id": "m"},
        {"type": "send", "content": "x", "message_id": 5},
        {"type": "send", "content": "x", "message_id": "m", "literal": "yes"},
        {"type": "send", "content": "x", "message_id": "m", "colour": "blue"},
        {"type": "permission", "request_id": "r", "decision": "maybe"},
        {"type": "permission", "request_id": "r", "decision": "allow", "scope": "ever"},
        {"type": "permission", "request_id": "r", "decision": "allow", "updated_input": []},
        {"type": "set_model"},
        {"type": "set_model", "value": None},
        b'{"type":"send","content":"\\ud800","message_id":"m"}',
    ],
)
def test_whatever_is_no_frame_is_a_bad_frame(frame: object) -> None:
    assert refused(frame)["code"] == "bad_frame"


def test_a_refusal_names_what_the_client_called_it() -> None:
    body = refused({"type": "send", "content": 5, "message_id": "m1", "session_id": "s1"})
    assert (body["message_id"], body["session_id"]) == ("m1", "s1")
    assert "session_id" not in refused({"type": "send", "session_id": 5})


def test_ten_bad_frames_in_a_row_are_hopeless_and_a_good_one_forgives() -> None:
    dialogue = p.Dialogue(100)
    for _ in range(9):
        receive({}, dialogue)
    assert not dialogue.is_hopeless
    assert receive({"type": "ping"}, dialogue) == p.Ping()
    for _ in range(5):
        receive({}, dialogue)
        dialogue.receive_binary()
    assert dialogue.is_hopeless


def test_a_frame_above_the_bound_is_too_large_and_not_bad() -> None:
    dialogue = p.Dialogue(100)
    frame = {"type": "send", "content": "x" * 200, "message_id": "m"}
    for _ in range(20):
        answer = receive(frame, dialogue)
        assert isinstance(answer, p.Refusal)
        assert json.loads(answer.frame)["code"] == "too_large"
        assert json.loads(answer.frame)["message_id"] == "m"
    assert not dialogue.is_hopeless
