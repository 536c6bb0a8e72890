"""From a line to a frame. Total: takes any bytes, never raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pool.protocol import frames as f
from pool.protocol.encoding import decode, is_json
from pool.protocol.framing import Line

STREAM_EVENT_PREFIX = b'{"type":"stream_event"'


def parse_frame(line: bytes) -> f.Frame:
    """The frame of a line (without its newline)."""
    if line.startswith(STREAM_EVENT_PREFIX):
        # Checked, not parsed: clients are sent the line as it is, so it must be JSON.
        return f.StreamEvent(line) if is_json(line) else f.Malformed(line, "not JSON")
    try:
        value = decode(line)
    except ValueError as error:
        return f.Malformed(line, f"not JSON: {error}"[:200])
    if not isinstance(value, dict):
        return f.Malformed(line, f"not an object but {type(value).__name__}")
    return frame_of(value, line)


def parse_line(line: Line) -> f.Frame:
    """The frame of a framer's line; ``Malformed`` for one above the bound or cut off by the end."""
    if line.oversized:
        return f.Malformed(line.data, "longer than the bound for one line")
    frame = parse_frame(line.data)
    if isinstance(frame, f.Malformed) and not line.complete:
        return f.Malformed(line.data, "cut off by the end of the output")
    return frame


def frame_of(value: dict[str, Any], raw: bytes) -> f.Frame:
    """The frame of an object that was parsed already; ``raw`` are its bytes."""
    kind = _text(value.get("type"))
    known, name = (_SYSTEM, _text(value.get("subtype"))) if kind == "system" else (_READERS, kind)
    read = known.get(name or "")
    frame = read(value, raw) if read is not None else None
    return f.Unknown(raw, kind) if frame is None else frame


# --- fields -------------------------------------------------------------------------------


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


# --- one reader a type; None: not readable, so unknown -------------------------------------

_Value = dict[str, Any]
_Reader = Callable[[_Value, bytes], f.Frame | None]


def _control_request(value: _Value, raw: bytes) -> f.Frame | None:
    request_id, request = _text(value.get("request_id")), value.get("request")
    if request_id is None or not isinstance(request, dict):
        return None
    return f.ControlRequest(raw, request_id, _text(request.get("subtype")) or "", request)


def _control_response(value: _Value, raw: bytes) -> f.Frame | None:
    envelope = _object(value.get("response"))
    request_id = _text(envelope.get("request_id"))
    if request_id is None:
        return None
    return f.ControlResponse(
        raw,
        request_id=request_id,
        ok=envelope.get("subtype") == "success",
        response=_object(envelope.get("response")),
        error=_text(envelope.get("error")),
        error_code=_text(envelope.get("error_code")),
        envelope=envelope,
    )


def _control_cancel_request(value: _Value, raw: bytes) -> f.Frame | None:
    request_id = _text(value.get("request_id"))
    return None if request_id is None else f.ControlCancelRequest(raw, request_id)


def _result(value: _Value, raw: bytes) -> f.Frame:
    origin = value.get("origin")
    return f.Result(
        raw,
        is_error=value.get("is_error") is True,
        subtype=_text(value.get("subtype")),
        terminal_reason=_text(value.get("terminal_reason")),
        api_error_status=_whole(value.get("api_error_status")),
        result=_text(value.get("result")),
        errors=_texts(value.get("errors")),
        origin=origin if isinstance(origin, dict) else None,
        user_message_uuid=_text(value.get("user_message_uuid")),
        session_id=_text(value.get("session_id")),
        num_turns=_whole(value.get("num_turns")),
        usage=_object(value.get("usage")),
        model_usage=_object(value.get("modelUsage")),
        total_cost_usd=_number(value.get("total_cost_usd")),
    )


def _assistant(value: _Value, raw: bytes) -> f.Frame:
    message = _object(value.get("message"))
    return f.Assistant(
        raw,
        message_id=_text(message.get("id")),
        model=_text(message.get("model")),
        error=_text(value.get("error")),
        parent_tool_use_id=_text(value.get("parent_tool_use_id")),
    )


def _user(value: _Value, raw: bytes) -> f.Frame:
    return f.UserFrame(
        raw,
        uuid=_text(value.get("uuid")),
        is_replay=value.get("isReplay") is True,
        parent_tool_use_id=_text(value.get("parent_tool_use_id")),
        tool_use_result=value.get("tool_use_result"),
    )


def _command_lifecycle(value: _Value, raw: bytes) -> f.Frame | None:
    command, state = _text(value.get("command_uuid")), _text(value.get("state"))
    return None if command is None or state is None else f.CommandLifecycle(raw, command, state)


def _conversation_reset(value: _Value, raw: bytes) -> f.Frame:
    return f.ConversationReset(raw, _text(value.get("new_conversation_id")))


def _system_init(value: _Value, raw: bytes) -> f.Frame:
    return f.SystemInit(
        raw,
        session_id=_text(value.get("session_id")),
        model=_text(value.get("model")),
        permission_mode=_text(value.get("permissionMode")),
        tools=_texts(value.get("tools")),
    )


def _session_state(value: _Value, raw: bytes) -> f.Frame | None:
    state = _text(value.get("state"))
    return None if state is None else f.SessionStateChanged(raw, state)


def _api_retry(value: _Value, raw: bytes) -> f.Frame:
    return f.ApiRetry(
        raw,
        attempt=_whole(value.get("attempt")),
        max_retries=_whole(value.get("max_retries")),
        retry_delay_ms=_number(value.get("retry_delay_ms")),
        error_status=_whole(value.get("error_status")),
        error=_text(value.get("error")),
    )


def _status(value: _Value, raw: bytes) -> f.Frame | None:
    mode = _text(value.get("permissionMode"))
    return None if mode is None else f.PermissionModeStatus(raw, mode, _text(value.get("status")))


def _task(value: _Value, raw: bytes) -> f.Frame:
    patch = _object(value.get("patch"))
    backgrounded = value.get("is_backgrounded", patch.get("is_backgrounded"))
    tasks = value.get("tasks")
    return f.TaskEvent(
        raw,
        subtype=str(value["subtype"]),
        task_id=_text(value.get("task_id")),
        status=_text(value.get("status")) or _text(patch.get("status")),
        is_backgrounded=backgrounded if isinstance(backgrounded, bool) else None,
        tasks=tuple(t for t in tasks if isinstance(t, dict)) if isinstance(tasks, list) else None,
    )


_READERS: dict[str, _Reader] = {
    "stream_event": lambda _, raw: f.StreamEvent(raw),
    "control_request": _control_request,
    "control_response": _control_response,
    "control_cancel_request": _control_cancel_request,
    "result": _result,
    "assistant": _assistant,
    "user": _user,
    "command_lifecycle": _command_lifecycle,
    "conversation_reset": _conversation_reset,
    "keep_alive": lambda _, raw: f.KeepAlive(raw),
    "transcript_mirror": lambda _, raw: f.TranscriptMirror(raw),
}

_SYSTEM: dict[str, _Reader] = {
    "init": _system_init,
    "session_state_changed": _session_state,
    "api_retry": _api_retry,
    "status": _status,
    "thinking_tokens": lambda _, raw: f.ThinkingTokens(raw),
    "task_started": _task,
    "task_updated": _task,
    "task_notification": _task,
    "background_tasks_changed": _task,
}
