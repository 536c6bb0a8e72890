"""Time as an argument: monotonic for durations, wall clock for stamps only."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the runtime needs to know of time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for deadlines and ages."""

    def wall(self) -> float:
        """Seconds since 1970; for stamps that people read, never for a decision."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds of ``CLOCK_MONOTONIC``."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since 1970 in UTC."""
        return time.time()
