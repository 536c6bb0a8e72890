"""The frames of the CLI's stdout, as far as the pool must look into them.

``parse_frame`` takes any bytes and never raises: what is not a JSON object is
``Malformed``, what has a type that we do not know is ``Unknown`` and passes
through unread. A known field of the wrong JSON type is None (or makes the
frame ``Unknown`` when nothing can be done without it). ``raw`` is the line as
it came: that is what clients are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of stream-json."""

    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamEvent(Frame):
    """A token delta or another raw event of the model call. Not parsed."""


@dataclass(frozen=True, slots=True)
class ControlRequest(Frame):
    """The CLI asks: ``can_use_tool``, ``hook_callback``, ``mcp_message``, …

    Not answered, the turn hangs for ever. ``request`` is the inner object.
    """

    request_id: str
    subtype: str
    request: Json


@dataclass(frozen=True, slots=True)
class ControlResponse(Frame):
    """The CLI's answer to one of our requests.

    ``envelope`` is the outer object: after a second ``initialize`` it has the
    open asks beside ``response``.
    """

    request_id: str
    ok: bool
    response: Json
    error: str | None
    error_code: str | None
    envelope: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class ControlCancelRequest(Frame):
    """An open ask of the CLI is void; a late answer is ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Result(Frame):
    """The end of one of the CLI's turns. Test ``is_error``: ``subtype`` may say success.

    ``result`` is only the last text block's continuation after a cut stream:
    never build an answer from it. ``usage`` and ``model_usage`` are the wire's
    objects; ``total_cost_usd`` is cumulative per process.
    """

    is_error: bool
    subtype: str | None
    terminal_reason: str | None
    api_error_status: int | None
    result: str | None
    errors: tuple[str, ...]
    origin: Json | None
    user_message_uuid: str | None
    session_id: str | None
    num_turns: int | None
    usage: Json
    model_usage: Json
    total_cost_usd: float | None


@dataclass(frozen=True, slots=True)
class SystemInit(Frame):
    """Printed at the start of every turn; its ``session_id`` can change."""

    session_id: str | None
    model: str | None
    permission_mode: str | None
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionStateChanged(Frame):
    """``running``, ``requires_action`` or ``idle``: at ``idle`` no turn is owed any more."""

    state: str


@dataclass(frozen=True, slots=True)
class CommandLifecycle(Frame):
    """What became of a user message: ``queued``, ``started``, ``completed``, ``cancelled``."""

    command_uuid: str
    state: str


@dataclass(frozen=True, slots=True)
class ConversationReset(Frame):
    """``/clear``: the conversation goes on under a new session id."""

    new_conversation_id: str | None


@dataclass(frozen=True, slots=True)
class ApiRetry(Frame):
    """A model call failed and is tried again: open delta text is void."""

    attempt: int | None
    max_retries: int | None
    retry_delay_ms: float | None
    error_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class PermissionModeStatus(Frame):
    """A ``system/status`` that names the permission mode in force."""

    permission_mode: str
    status: str | None


@dataclass(frozen=True, slots=True)
class Assistant(Frame):
    """One content block of the model. ``model`` is ``<synthetic>`` for the CLI's own notices."""

    message_id: str | None
    model: str | None
    error: str | None
    parent_tool_use_id: str | None

    @property
    def is_synthetic(self) -> bool:
        """Did the CLI write it itself (an API error, a local command)?"""
        return self.model == "<synthetic>"


@dataclass(frozen=True, slots=True)
class UserFrame(Frame):
    """A tool's result, an interrupt's notice, or the echo of a message."""

    uuid: str | None
    is_replay: bool
    parent_tool_use_id: str | None
    tool_use_result: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class TaskEvent(Frame):
    """News of background work (shells, agents).

    ``subtype``: ``task_started``, ``task_updated``, ``task_notification`` or
    ``background_tasks_changed``; only the last has ``tasks``, the full live
    set. ``status`` comes from the frame or its ``patch``.
    """

    subtype: str
    task_id: str | None
    status: str | None
    is_backgrounded: bool | None
    tasks: tuple[Json, ...] | None


@dataclass(frozen=True, slots=True)
class ThinkingTokens(Frame):
    """A progress figure while the model thinks; not worth keeping."""


@dataclass(frozen=True, slots=True)
class KeepAlive(Frame):
    """Nothing happened."""


@dataclass(frozen=True, slots=True)
class TranscriptMirror(Frame):
    """A copy of a transcript append; not for clients."""


@dataclass(frozen=True, slots=True)
class Unknown(Frame):
    """A type that we need not look at, or do not know; passes through."""

    type: str | None


@dataclass(frozen=True, slots=True)
class Malformed(Frame):
    """Not a JSON object, above the bound, or cut off. ``reason`` is for the log."""

    reason: str


_PRIVATE = (ControlRequest, ControlResponse, ControlCancelRequest, KeepAlive, TranscriptMirror, Malformed)


def is_published(frame: Frame) -> bool:
    """Do clients get it? All but control frames, keep-alives, mirrors and what is malformed."""
    if isinstance(frame, Unknown):
        return not (frame.type or "").startswith("control_")
    return not isinstance(frame, _PRIVATE)


def is_durable(frame: Frame) -> bool:
    """Does it belong in the event log? What is published, but not deltas and progress figures."""
    return is_published(frame) and not isinstance(frame, StreamEvent | ThinkingTokens)
