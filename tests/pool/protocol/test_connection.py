"""Lines to the CLI, and whose answer it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pool.protocol import connection as c
from pool.protocol.frames import ControlResponse
from pool.protocol.input_gate import check_input_line
from pool.protocol.parsing import parse_frame


def answer(request_id: str, **envelope: Any) -> ControlResponse:
    body = {"subtype": "success", "request_id": request_id, "response": {}, **envelope}
    frame = parse_frame(json.dumps({"type": "control_response", "response": body}).encode())
    assert isinstance(frame, ControlResponse)
    return frame


def test_a_request_is_numbered_and_its_answer_found_once() -> None:
    connection = c.CliConnection(epoch=3)
    first, line = connection.request("get_context_usage", detail="full")
    second, _ = connection.ping()
    assert (first, second) == ("3-1", "3-2")
    assert check_input_line(line)["request"] == {"subtype": "get_context_usage", "detail": "full"}
    assert connection.open_requests == {"3-1": "get_context_usage", "3-2": "get_binary_version"}
    assert connection.resolve(answer("3-2"))
    assert not connection.resolve(answer("3-2"))
    assert connection.open_requests == {"3-1": "get_context_usage"}


def test_an_answer_to_a_dead_server_matches_nothing() -> None:
    before, after = c.CliConnection(epoch=3), c.CliConnection(epoch=4)
    request_id, _ = before.ping()
    after.ping()
    assert not after.resolve(answer(request_id))


def test_an_answer_that_comes_too_late_matches_nothing() -> None:
    connection = c.CliConnection(1)
    request_id, _ = connection.ping()
    connection.forget(request_id)
    assert not connection.resolve(answer(request_id))


def test_initialize_always_says_which_hooks_there_are() -> None:
    # null would keep the hooks of the server before
    connection = c.CliConnection(1)
    for _, line in (connection.initialize(), connection.initialize(hooks=None)):
        assert check_input_line(line)["request"] == {"subtype": "initialize", "hooks": {}}
    hooks = {"PreToolUse": [{"hookCallbackIds": ["policy"]}]}
    _, line = connection.initialize(hooks, title="t")
    assert check_input_line(line)["request"] == {"subtype": "initialize", "hooks": hooks, "title": "t"}


def test_the_small_requests() -> None:
    connection = c.CliConnection(1)
    bodies = [
        check_input_line(line)["request"]
        for _, line in (
            connection.interrupt(),
            connection.interrupt(cancel_queued=False),
            connection.set_model("m"),
            connection.set_model(None),
            connection.set_permission_mode("plan"),
        )
    ]
    assert bodies == [
        {"subtype": "interrupt", "cancel_queued": True},
        {"subtype": "interrupt", "cancel_queued": False},
        {"subtype": "set_model", "model": "m"},
        {"subtype": "set_model", "model": None},
        {"subtype": "set_permission_mode", "mode": "plan"},
    ]


def test_a_message_bears_its_turn() -> None:
    value = check_input_line(c.user_message("u-1", "hi"))
    assert value == {
        "type": "user",
        "message": {"role": "user", "content": "hi"},
        "parent_tool_use_id": None,
        "uuid": "u-1",
    }
    blocks = [{"type": "text", "text": "a"}]
    assert check_input_line(c.user_message("u-2", blocks))["message"]["content"] == blocks


def test_a_literal_message_says_so() -> None:
    assert check_input_line(c.user_message("u", "/exit @x", literal=True))["client_composed"] is True
    assert "client_composed" not in check_input_line(c.user_message("u", "/cost"))


@given(st.text(min_size=1))
def test_any_text_passes_the_gate_unchanged(text: str) -> None:
    assert check_input_line(c.user_message("u", text))["message"]["content"] == text


def test_answers_to_an_ask() -> None:
    def body(line: bytes) -> Any:
        response = check_input_line(line)["response"]
        assert (response["subtype"], response["request_id"]) == ("success", "r")
        return response["response"]

    assert body(c.permission_response("r", "allow")) == {"behavior": "allow"}
    assert body(c.permission_response("r", "allow", updated_input={"a": 1})) == {
        "behavior": "allow",
        "updatedInput": {"a": 1},
    }
    rule = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
    assert body(c.permission_response("r", "allow", updated_permissions=[rule])) == {
        "behavior": "allow",
        "updatedPermissions": [rule],
    }
    assert body(c.permission_response("r", "deny", message="no", interrupt=True)) == {
        "behavior": "deny",
        "message": "no",
        "interrupt": True,
    }
    assert body(c.permission_response("r", "deny"))["message"] != ""
    assert body(c.permission_response("r", "maybe"))["behavior"] == "deny"
    assert body(c.success_response("r", {"mcp_response": {}})) == {"mcp_response": {}}


def test_a_refusal_of_a_request_that_we_do_not_serve() -> None:
    response = check_input_line(c.error_response("r", "not served here"))["response"]
    assert response == {"subtype": "error", "request_id": "r", "error": "not served here"}


def test_open_asks_are_read_from_the_answer_to_a_second_initialize() -> None:
    ask = {"type": "control_request", "request_id": "a", "request": {"subtype": "can_use_tool", "input": {}}}
    first, *rest = c.pending_asks(answer("1-1", pending_permission_requests=[ask, {"type": "user"}, 7]))
    assert (first.request_id, first.subtype, rest) == ("a", "can_use_tool", [])
    assert json.loads(first.raw) == ask
    assert c.pending_asks(answer("1-1")) == ()
    assert c.pending_asks(answer("1-1", pending_permission_requests="none")) == ()
