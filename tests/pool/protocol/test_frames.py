"""What is read from a frame, and that no bytes at all can make the reader raise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.protocol import frames as f
from pool.protocol.framing import Line
from pool.protocol.parsing import parse_frame, parse_line

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = [
    "assistant",
    "command_lifecycle",
    "control_cancel_request",
    "control_request",
    "control_response",
    "conversation_reset",
    "keep_alive",
    "result",
    "stream_event",
    "system",
    "transcript_mirror",
    "user",
    "tool_progress",
]
SUBTYPES = [
    "api_retry",
    "background_tasks_changed",
    "init",
    "session_state_changed",
    "status",
    "success",
    "task_notification",
    "task_started",
    "task_updated",
    "thinking_tokens",
]
FIELDS = [
    "api_error_status",
    "attempt",
    "command_uuid",
    "error",
    "errors",
    "event",
    "is_backgrounded",
    "is_error",
    "isReplay",
    "max_retries",
    "message",
    "model",
    "modelUsage",
    "new_conversation_id",
    "num_turns",
    "origin",
    "patch",
    "permissionMode",
    "request",
    "request_id",
    "response",
    "result",
    "session_id",
    "state",
    "status",
    "task_id",
    "tasks",
    "terminal_reason",
    "tools",
    "tool_use_result",
    "total_cost_usd",
    "usage",
    "uuid",
]
distorted = st.builds(
    lambda fields, kind, subtype: {**fields, "type": kind, "subtype": subtype},
    st.dictionaries(st.sampled_from(FIELDS), json_values),
    st.sampled_from(TYPES) | json_values,
    st.sampled_from(SUBTYPES) | json_values,
)


def frame(**value: Any) -> f.Frame:
    return parse_frame(json.dumps(value).encode())


# --- totality ---------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_no_bytes_raise(line: bytes) -> None:
    result = parse_frame(line)
    assert result.raw == line
    assert f.is_published(result) in (True, False)


@given(st.binary(max_size=60))
def test_no_bytes_behind_the_prefix_of_a_delta_raise(rest: bytes) -> None:
    line = b'{"type":"stream_event"' + rest
    result = parse_frame(line)
    assert isinstance(result, f.StreamEvent | f.Malformed)


@given(distorted)
def test_no_field_of_a_wrong_type_raises(value: dict[str, Any]) -> None:
    line = json.dumps(value).encode()
    result = parse_frame(line)
    assert result.raw == line
    assert not f.is_durable(result) or f.is_published(result)


@given(distorted)
def test_what_is_published_is_json_that_a_client_can_read(value: dict[str, Any]) -> None:
    line = json.dumps(value).encode()
    result = parse_frame(line)
    if f.is_published(result) and b"NaN" not in line and b"Infinity" not in line:
        assert json.loads(result.raw) == json.loads(line)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"noise", "not JSON"),
        (b'{"type":"result"', "not JSON"),
        (b'{"type":"user"}{"type":"user"}', "not JSON"),
        (b'{"type":"stream_event","event":{}', "not JSON"),
        (b'{"type":"stream_event"}{"type":"stream_event"}', "not JSON"),
        (b'{"type":"user","text":"\xff"}', "not JSON"),
        (b'{"type":"user","text":"\x00"}', "not JSON"),
        (b'{"type":"result","total_cost_usd":NaN}', "not JSON"),
        (b"[1,2]", "not an object but list"),
        (b"null", "not an object but NoneType"),
        (b"[" * 200_000, "not JSON"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_noise_is_malformed_and_never_published(line: bytes, reason: str) -> None:
    result = parse_frame(line)
    assert isinstance(result, f.Malformed)
    assert result.reason.startswith(reason)
    assert not f.is_published(result)
    assert not f.is_durable(result)


# --- lines ------------------------------------------------------------------------------------


def test_a_line_above_the_bound_is_malformed() -> None:
    result = parse_line(Line(90_000_000, b'{"type":"user","content":"', oversized=True))
    assert result == f.Malformed(b'{"type":"user","content":"', "longer than the bound for one line")


def test_a_last_line_without_its_newline_counts_if_it_is_whole() -> None:
    assert isinstance(parse_line(Line(21, b'{"type":"keep_alive"}', complete=False)), f.KeepAlive)
    cut = parse_line(Line(20, b'{"type":"keep_alive"', complete=False))
    assert cut == f.Malformed(b'{"type":"keep_alive"', "cut off by the end of the output")


# --- each frame ---------------------------------------------------------------------------------


def test_a_delta_is_recognised_by_its_prefix_and_also_when_type_is_not_first() -> None:
    first = frame(type="stream_event", event={"type": "message_stop"})
    later = frame(event={"type": "message_stop"}, type="stream_event")
    for delta in (first, later):
        assert isinstance(delta, f.StreamEvent)
        assert f.is_published(delta)
        assert not f.is_durable(delta)


def test_an_ask() -> None:
    request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {"file_path": "/x"}}
    ask = frame(type="control_request", request_id="6d73", request=request)
    assert isinstance(ask, f.ControlRequest)
    assert (ask.request_id, ask.subtype, ask.request) == ("6d73", "can_use_tool", request)
    assert not f.is_published(ask)


def test_an_answer_and_what_stands_beside_it() -> None:
    open_asks = [{"type": "control_request", "request_id": "a", "request": {"subtype": "can_use_tool"}}]
    answer = frame(
        type="control_response",
        response={
            "subtype": "success",
            "request_id": "3-1",
            "response": {"pid": 7},
            "pending_permission_requests": open_asks,
        },
    )
    assert isinstance(answer, f.ControlResponse)
    assert (answer.request_id, answer.ok, answer.response) == ("3-1", True, {"pid": 7})
    assert answer.envelope["pending_permission_requests"] == open_asks
    assert not f.is_published(answer)


def test_a_refusal_by_the_cli() -> None:
    text = "Unsupported control request subtype: foo_bar"
    answer = frame(
        type="control_response",
        response={
            "subtype": "error",
            "request_id": "3-2",
            "error": text,
            "error_code": "unsupported_request",
        },
    )
    assert isinstance(answer, f.ControlResponse)
    assert not answer.ok
    assert (answer.error, answer.error_code) == (text, "unsupported_request")


def test_a_control_frame_that_cannot_be_read_is_still_not_for_clients() -> None:
    for value in ({"type": "control_request"}, {"type": "control_response"}, {"type": "control_news"}):
        result = frame(**value)
        assert isinstance(result, f.Unknown)
        assert not f.is_published(result)


def test_a_void_ask() -> None:
    assert frame(type="control_cancel_request", request_id="r") == f.ControlCancelRequest(
        b'{"type": "control_cancel_request", "request_id": "r"}', "r"
    )


def test_a_result_with_type_far_from_the_front() -> None:
    result = frame(
        is_error=True,
        subtype="success",
        terminal_reason="api_error",
        api_error_status=400,
        result="API Error: 400",
        errors=["e", 7],
        usage={"input_tokens": 5},
        modelUsage={"m": {}},
        total_cost_usd=0.25,
        num_turns=1,
        user_message_uuid="u",
        session_id="s",
        origin={"kind": "peer"},
        type="result",
    )
    assert isinstance(result, f.Result)
    assert result.is_error
    assert (result.subtype, result.terminal_reason, result.api_error_status) == ("success", "api_error", 400)
    assert (result.result, result.errors) == ("API Error: 400", ("e",))
    assert (result.usage, result.model_usage, result.total_cost_usd) == ({"input_tokens": 5}, {"m": {}}, 0.25)
    assert (result.num_turns, result.user_message_uuid, result.session_id) == (1, "u", "s")
    assert result.origin == {"kind": "peer"}
    assert f.is_durable(result)


def test_the_start_of_a_turn() -> None:
    init = frame(
        type="system", subtype="init", session_id="s", model="m", permissionMode="plan", tools=["Bash", 1]
    )
    assert isinstance(init, f.SystemInit)
    assert (init.session_id, init.model, init.permission_mode, init.tools) == ("s", "m", "plan", ("Bash",))


def test_states_of_the_cli_and_of_messages() -> None:
    idle = frame(type="system", subtype="session_state_changed", state="idle")
    assert isinstance(idle, f.SessionStateChanged)
    assert idle.state == "idle"
    started = frame(type="command_lifecycle", command_uuid="u", state="started")
    assert isinstance(started, f.CommandLifecycle)
    assert (started.command_uuid, started.state) == ("u", "started")
    reset = frame(type="conversation_reset", new_conversation_id="n", session_id="old")
    assert isinstance(reset, f.ConversationReset)
    assert reset.new_conversation_id == "n"


def test_a_retry_of_the_model_call() -> None:
    retry = frame(
        type="system", subtype="api_retry", attempt=2, max_retries=5, retry_delay_ms=1100.5, error_status=529
    )
    assert isinstance(retry, f.ApiRetry)
    assert (retry.attempt, retry.max_retries, retry.retry_delay_ms) == (2, 5, 1100.5)
    assert (retry.error_status, retry.error) == (529, None)


def test_a_status_with_and_without_a_permission_mode() -> None:
    changed = frame(type="system", subtype="status", status=None, permissionMode="acceptEdits")
    assert isinstance(changed, f.PermissionModeStatus)
    assert changed.permission_mode == "acceptEdits"
    assert isinstance(frame(type="system", subtype="status", status="requesting"), f.Unknown)


def test_assistant_and_user() -> None:
    said = frame(type="assistant", message={"id": "msg_1", "model": "m", "content": []})
    assert isinstance(said, f.Assistant)
    assert (said.message_id, said.model, said.is_synthetic) == ("msg_1", "m", False)
    notice = frame(type="assistant", message={"model": "<synthetic>"}, error="server_error")
    assert isinstance(notice, f.Assistant)
    assert (notice.is_synthetic, notice.error) == (True, "server_error")
    tool = frame(type="user", uuid="u", message={"role": "user"}, tool_use_result={"task": {"id": "1"}})
    assert isinstance(tool, f.UserFrame)
    assert (tool.tool_use_result, tool.is_replay, tool.uuid) == ({"task": {"id": "1"}}, False, "u")


def test_news_of_background_work() -> None:
    started = frame(type="system", subtype="task_started", task_id="b7", is_backgrounded=True)
    assert isinstance(started, f.TaskEvent)
    assert (started.task_id, started.is_backgrounded, started.tasks) == ("b7", True, None)
    done = frame(type="system", subtype="task_updated", task_id="b7", patch={"status": "completed"})
    assert isinstance(done, f.TaskEvent)
    assert done.status == "completed"
    live = frame(type="system", subtype="background_tasks_changed", tasks=[{"task_id": "b8"}, 7])
    assert isinstance(live, f.TaskEvent)
    assert live.tasks == ({"task_id": "b8"},)


def test_what_clients_get_and_what_is_kept() -> None:
    kept = [frame(type="user"), frame(type="tool_progress"), frame(type="rate_limit_event"), frame(a=1)]
    assert all(f.is_durable(item) for item in kept)
    passing = [frame(type="stream_event"), frame(type="system", subtype="thinking_tokens")]
    assert all(f.is_published(item) and not f.is_durable(item) for item in passing)
    private = [frame(type="keep_alive"), frame(type="transcript_mirror", entries=[])]
    assert not any(f.is_published(item) for item in private)
