"""Whether an upstream may be called: closed while it works, open after failures, half-open to try. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

FAILURES = 8
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0

# The upstream's own trouble, which others will meet too. 429 is the caller's limit, and a 500 may be
# what one odd request makes of it: nobody shall close the way for others.
FAILING_STATUSES = frozenset({502, 503, 504, 529})


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call; ``is_trial``: the one that finds out whether the upstream is back."""

    is_trial: bool


@dataclass(slots=True)
class Breaker:
    """Opens after ``failures`` in a row; then one call at a time may try, with growing pauses between.

    All times are seconds of one monotonic clock, given by the caller. Every
    permit is given back by one of ``succeeded``, ``failed`` and ``left``.
    """

    failures: int = FAILURES
    _in_a_row: int = field(default=0, init=False)
    _pause_seconds: float = field(default=FIRST_PAUSE_SECONDS, init=False)
    _tries_at: float | None = field(default=None, init=False)
    _is_trying: bool = field(default=False, init=False)

    @property
    def is_closed(self) -> bool:
        """Do calls pass freely?"""
        return self._tries_at is None

    def ask(self, now: float) -> Permit | None:
        """Leave to call, or None while the upstream is left alone."""
        if self._tries_at is None:
            return Permit(is_trial=False)
        if self._is_trying or now < self._tries_at:
            return None
        self._is_trying = True
        return Permit(is_trial=True)

    def seconds_left(self, now: float) -> float:
        """After how long it makes sense to ask again."""
        return max(1.0, (self._tries_at or now) - now)

    def succeeded(self) -> None:
        """The upstream answered: all is well."""
        self._in_a_row, self._pause_seconds = 0, FIRST_PAUSE_SECONDS
        self._tries_at, self._is_trying = None, False

    def failed(self, permit: Permit, now: float) -> None:
        """The upstream did not answer, or with trouble of its own."""
        self._in_a_row += 1
        if permit.is_trial:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
            self._tries_at, self._is_trying = now + self._pause_seconds, False
        elif self._tries_at is None and self._in_a_row >= self.failures:
            self._tries_at = now + self._pause_seconds

    def left(self, permit: Permit) -> None:
        """The caller went away before it was known; the next one may try."""
        if permit.is_trial:
            self._is_trying = False
