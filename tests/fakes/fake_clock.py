"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """See ``pool.clock.Clock``. The wall clock may jump; the monotonic one only goes on."""

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = 1000.0
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Time passes on both clocks."""
        self._monotonic += seconds
        self._wall += seconds

    def set_wall(self, seconds: float) -> None:
        """Somebody set the date."""
        self._wall = seconds
