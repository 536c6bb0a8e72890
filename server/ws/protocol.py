"""The WebSocket dialogue without the socket: bytes in, commands or refusals out.

A frame that cannot be understood is refused as ``bad_frame`` and the socket
stays open; ten in a row end it. A frame that is understood and refused later
(a bad cursor, a full queue) is not a bad frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pool import check_name
from pool.errors import PoolError
from server.errors import describe

MAX_BAD_IN_A_ROW = 10


class _Command(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", frozen=True):
    """A client frame. ``session_id`` None means it was left out."""


class Subscribe(_Command, tag="subscribe", frozen=True):
    """Follow a session, from just after ``cursor``."""

    session_id: Any = None
    cursor: Any = None


class Unsubscribe(_Command, tag="unsubscribe", frozen=True):
    """Follow it no more."""

    session_id: Any = None


class Send(_Command, tag="send", frozen=True):
    """Queue a turn."""

    content: str | list[dict[str, Any]]
    message_id: str
    session_id: Any = None
    literal: bool = False


class Interrupt(_Command, tag="interrupt", frozen=True):
    """End what runs and withdraw what is queued."""

    session_id: Any = None


class AnswerPermission(_Command, tag="permission", frozen=True):
    """Answer an approval."""

    request_id: str
    decision: Literal["allow", "deny"]
    session_id: Any = None
    message: str | None = None
    updated_input: dict[str, Any] | None = None
    scope: Literal["once", "session", "always"] = "once"


class SetModel(_Command, tag="set_model", frozen=True):
    """Take another model."""

    value: str
    session_id: Any = None


class SetPermissionMode(_Command, tag="set_permission_mode", frozen=True):
    """Take another permission mode."""

    value: str
    session_id: Any = None


class Ping(_Command, tag="ping", frozen=True):
    """Are you there?"""


Command = Subscribe | Unsubscribe | Send | Interrupt | AnswerPermission | SetModel | SetPermissionMode
Frame = Command | Ping


class _Marks(msgspec.Struct):
    """What of a bad frame tells the client which one it was."""

    session_id: Any = None
    message_id: Any = None
    request_id: Any = None


_frames = msgspec.json.Decoder(Frame)
_marks = msgspec.json.Decoder(_Marks)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ``error`` frame to answer with."""

    frame: bytes
    code: str


def error_frame(error: PoolError, **marks: object) -> bytes:
    """An ``error`` frame; ``marks`` that are texts (``session_id``, ``message_id``, ``request_id``) go in."""
    known = {name: mark for name, mark in marks.items() if isinstance(mark, str)}
    return msgspec.json.encode({"type": "error", **describe(error), **known}, enc_hook=str)


def _refusal(code: str, message: str, data: bytes) -> Refusal:
    try:
        marks = _marks.decode(data)
        known = {
            name: mark
            for name, mark in msgspec.structs.asdict(marks).items()
            if isinstance(mark, str) and len(mark) <= 200
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        known = {}
    body = {"type": "error", "code": code, "message": message, **known}
    return Refusal(msgspec.json.encode(body), code)


def session_of(command: Command) -> str:
    """The session that a command names, ``default`` when it names none. Raises ``InvalidName``."""
    if command.session_id is None:
        return "default"
    return check_name(command.session_id, "session_id")


class Dialogue:
    """Reads client frames and counts the bad ones."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max = max_message_bytes
        self._bad_in_a_row = 0

    @property
    def is_hopeless(self) -> bool:
        """So many bad frames in a row that the socket is to be closed with 1008."""
        return self._bad_in_a_row >= MAX_BAD_IN_A_ROW

    def receive(self, data: bytes) -> Frame | Refusal:
        """One text frame's bytes."""
        if len(data) > self._max:
            self._bad_in_a_row = 0
            return _refusal("too_large", f"a frame has at most {self._max} bytes", data)
        try:
            frame: Frame = _frames.decode(data)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return self._bad(str(error), data)
        except (UnicodeDecodeError, RecursionError):
            return self._bad("the frame is not JSON that can be read", data)
        self._bad_in_a_row = 0
        return frame

    def receive_binary(self) -> Refusal:
        """A binary frame: there are none in this protocol."""
        return self._bad("frames are text, not binary", b"{}")

    def _bad(self, reason: str, data: bytes) -> Refusal:
        self._bad_in_a_row += 1
        return _refusal("bad_frame", f"not a frame of this protocol: {reason}", data)
