"""The words of the domain as types: ids, states, cursors and frozen records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NewType, Self

from pool.errors import BadCursor

UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
InstanceId = NewType("InstanceId", str)
TurnId = NewType("TurnId", str)

DEFAULT_SESSION = SessionId("default")

LOCAL = "local"
"""The name of this machine among the hosts."""


class InstanceState(Enum):
    """Where one incarnation of the CLI stands. See ``pool.lifecycle.instance``."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPING = "stopping"
    STUCK = "stuck"
    EXITED = "exited"


class TurnState(Enum):
    """Where a turn stands. The last five are terminal: its outcomes."""

    QUEUED = "queued"
    DISPATCHING = "dispatching"
    RUNNING = "running"
    AWAITING = "awaiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    WITHDRAWN = "withdrawn"

    @property
    def is_terminal(self) -> bool:
        """Has the turn ended, once and for all?"""
        return self in _OUTCOMES


_OUTCOMES = frozenset(
    {TurnState.SUCCEEDED, TurnState.FAILED, TurnState.INTERRUPTED, TurnState.LOST, TurnState.WITHDRAWN}
)


class SessionState(Enum):
    """Where a session stands. See ``pool.lifecycle.session``."""

    PARKED = "parked"
    WAKING = "waking"
    LIVE = "live"
    COOLING = "cooling"
    FAULTED = "faulted"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True, order=True)
class SessionKey:
    """A session is named within its user."""

    user_id: UserId
    session_id: SessionId

    def __str__(self) -> str:
        return f"{self.user_id}:{self.session_id}"


_CURSOR = re.compile(r"(\d{1,9})\.(\d{1,18})\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a session's log; clients only echo its text.

    ``ordinal`` is the instance's number within the session (0 before the
    first), ``offset`` the spool offset in bytes of the end of the line that
    was ingested last, ``k`` is 0 for the CLI's own frame that ends there and
    1, 2, … for the events that the server added at that place.
    """

    ordinal: int
    offset: int
    k: int

    def __str__(self) -> str:
        return f"{self.ordinal}.{self.offset}.{self.k}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a cursor; ``"0"`` is the beginning. Raises ``BadCursor``."""
        if text == "0":
            return cls(0, 0, 0)
        match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise BadCursor("not a cursor: send back the cursor of a frame as it came, or '0'")
        return cls(int(match[1]), int(match[2]), int(match[3]))


BEGINNING = Cursor(0, 0, 0)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: exactly one of ``code`` and ``signal`` is known, or neither.

    ``signal`` is a name such as ``"SIGKILL"``; a sandbox's exit 128+n has
    been turned into it already. Both are None when the keeper died and
    nobody collected the status. ``cause`` is what the kernel ended it for,
    where it tells: ``"out_of_memory"``.
    """

    code: int | None = None
    signal: str | None = None
    cause: str | None = None

    def describe(self) -> str:
        """A phrase for a person: "was ended by SIGKILL", "exited with code 1"."""
        if self.cause == "out_of_memory":
            return "was ended because its processes took more memory than they may (out of memory)"
        if self.signal is not None:
            return f"was ended by {self.signal}"
        if self.code is not None:
            return f"exited with code {self.code}"
        return "ended with its keeper; the exit status is not known"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a turn or session is where it is, for programs (``code``) and people (``message``)."""

    code: str
    message: str
    exit_code: int | None = None
    signal: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The wire form of CONTRACT section 6; unknown parts are left out."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.exit_code is not None:
            body["exit_code"] = self.exit_code
        if self.signal is not None:
            body["signal"] = self.signal
        return body


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """The session object of CONTRACT section 5; ``remembered`` is what need not be asked, word for word."""

    user_id: UserId
    session_id: SessionId
    title: str
    state: SessionState
    template: str
    model: str | None
    permission_mode: str
    created_at: float
    last_active_at: float
    cursor: Cursor
    remembered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """The instance object of CONTRACT section 5; ``pid`` is that of ``claude`` itself on ``host``.

    Of other hosts than this machine memory and processor time are what those told last, 0 before they did.
    """

    id: InstanceId
    user_id: UserId
    session_id: SessionId
    state: InstanceState
    pid: int | None
    started_at: float
    turns: int
    rss_bytes: int
    cpu_seconds: float
    isolation: str
    host: str = LOCAL


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """A turn as clients see it."""

    turn_id: TurnId
    state: TurnState
    origin: str
    message_id: str | None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session stands in the line for an instance.

    ``position`` 1 is served next, ``of`` is the length of the line.
    ``estimate_seconds`` is how long it is likely to wait, None while nobody
    can know. ``limit`` is what it waits for: a slot of the ``pool``, or one
    of the user's ``own``, who has as many instances as they may have.
    """

    position: int
    of: int
    estimate_seconds: float | None
    limit: str = "pool"

    def as_dict(self) -> dict[str, Any]:
        """The ``queue`` of a ``session`` frame; an unknown estimate is left out."""
        body: dict[str, Any] = {"position": self.position, "of": self.of, "limit": self.limit}
        if self.estimate_seconds is not None:
            body["estimate_seconds"] = round(self.estimate_seconds)
        return body


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first answer to a message; a repeated message gets the same one again.

    ``position`` is the place in the session's queue; 0 runs next. ``place``
    is where the session stands in the line for an instance, if it does.
    """

    turn_id: TurnId
    message_id: str
    position: int
    repeated: bool = False
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class PermissionInfo:
    """An approval that waits for an answer."""

    request_id: str
    tool: str
    input: dict[str, Any]
    cursor: Cursor
    asked_at: float
    details: dict[str, Any] = field(default_factory=dict)
