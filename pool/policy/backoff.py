"""After a crash: how long to wait, and when to stop trying.

A crash is an end of an instance that nobody asked for, before or after it
became ready. The delay doubles with every crash in the window; the third
within 60 seconds is a crash loop. What can never start (a flag that the CLI
does not know, a program that is not there) is given up at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Wait so long, then launch again."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fault the session with this reason."""

    reason: Reason


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


def after_crash(
    crash_times: Sequence[float],
    now: float,
    *,
    jitter: float,
    status: ExitStatus | None = None,
    is_permanent: bool = False,
    rules: CrashRules = DEFAULT_CRASH_RULES,
) -> TryAgain | GiveUp:
    """What to do after the crash that has just happened.

    ``crash_times`` are the session's crashes on the same monotonic clock as
    ``now``, this one included. ``jitter`` is a random number from 0 to 1; the
    delay is between half and the whole of its nominal value.
    """
    if is_permanent:
        return GiveUp(_reason("launch_failed", "The claude CLI cannot start", status))
    recent = [time for time in crash_times if now - time < rules.window_seconds]
    if len(recent) >= rules.crashes_in_window:
        text = f"The claude CLI crashed {len(recent)} times in {rules.window_seconds:g} seconds"
        return GiveUp(_reason("crash_loop", text, status))
    nominal = rules.first_delay_seconds * 2 ** max(0, len(recent) - 1)
    return TryAgain(min(nominal, rules.largest_delay_seconds) * (0.5 + jitter / 2))


def _reason(code: str, text: str, status: ExitStatus | None) -> Reason:
    if status is None:
        return Reason(code, f"{text}.")
    return Reason(code, f"{text}; the last one {status.describe()}.", status.code, status.signal)
