"""After a crash: how long to wait, and when to stop trying.

A crash is an end of an instance that nobody asked for, before or after it
became ready. The delay doubles with every crash in the window; the third
within 60 seconds is a crash loop. What can never start (a flag that the CLI
does not know, a program that is not there) is given up at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from pool.model import ExitStatus, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashRules:
    """When to give up, and the delays in seconds before that."""

    window_seconds: float = 60.0
    crashes_in_window: int = 3
    first_delay_seconds: float = 0.5
    largest_delay_seconds: float = 30.0


DEFAULT_CRASH_RULES = CrashRules()


class LaunchTrouble(Enum):
    """What the CLI's last words say about why it did not start."""

    UNKNOWN = "unknown"
    PERMANENT = "permanent"
    """It can never start like this: an unknown flag, a missing or unusable program."""
    SESSION_EXISTS = "session_exists"
    """``--session-id`` of a transcript that is there: launch with ``resume``."""
    SESSION_MISSING = "session_missing"
    """``--resume`` of a transcript that is not there: launch a new session."""


_LAST_WORDS = (
    (LaunchTrouble.SESSION_EXISTS, re.compile(r"Session ID \S+ is already in use")),
    (LaunchTrouble.SESSION_MISSING, re.compile(r"No conversation found with session ID")),
    (LaunchTrouble.PERMANENT, re.compile(r"^error: (unknown option|option '.*' argument)", re.MULTILINE)),
)
_CANNOT_RUN = (126, 127)


def diagnose(status: ExitStatus, stderr_tail: str) -> LaunchTrouble:
    """Read the end of an instance that never became ready."""
    if status.code in _CANNOT_RUN:
        return LaunchTrouble.PERMANENT
    for trouble, pattern in _LAST_WORDS:
        if pattern.search(stderr_tail):
            return trouble
    return LaunchTrouble.UNKNOWN


class CrashHistory:
    """The recent crashes of one session, by monotonic times that the caller gives."""

    def __init__(self, rules: CrashRules = DEFAULT_CRASH_RULES) -> None:
        self._rules = rules
        self._times: list[float] = []

    def crashed(self, now: float, *, is_permanent: bool = False) -> bool:
        """Note a crash at ``now``. True: it is a crash loop (or can never start), give up."""
        self._times = [time for time in self._times if now - time < self._rules.window_seconds]
        self._times.append(now)
        return is_permanent or len(self._times) >= self._rules.crashes_in_window

    def delay_seconds(self, jitter: float = 1.0) -> float:
        """How long to wait after the latest crash.

        ``jitter`` is a random number from 0 to 1: the delay is between half
        and the whole of its nominal value, so that many do not return at once.
        """
        rules = self._rules
        nominal: float = rules.first_delay_seconds * 2.0 ** max(0, len(self._times) - 1)
        return min(nominal, rules.largest_delay_seconds) * (0.5 + jitter / 2)

    def forget(self) -> None:
        """A person wants another try: begin anew."""
        self._times.clear()

    def reason(self, status: ExitStatus | None = None, *, is_permanent: bool = False) -> Reason:
        """Why the session is given up; ``status`` is how the last process ended."""
        if is_permanent:
            code, text = "launch_failed", "The claude CLI cannot start here"
        else:
            code = "crash_loop"
            text = (
                f"The claude CLI crashed {len(self._times)} times in {self._rules.window_seconds:g} seconds"
            )
        if status is None:
            return Reason(code, f"{text}.")
        return Reason(code, f"{text}; the last one {status.describe()}.", status.code, status.signal)
