"""When a whole host cannot start CLIs, trying again for each session only makes it worse.

A missing program, no memory, no descriptors, no keeper: then every launch of
every user fails. After some failures of several users in a row the breaker
opens: nothing is started for a while, what runs goes on, and then one launch
is let through to see. One user's crash loop never opens it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from pool.model import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When it opens, and for how many seconds; each probe that fails doubles that."""

    failures: int = 5
    users: int = 3
    window_seconds: float = 60.0
    first_pause_seconds: float = 15.0
    largest_pause_seconds: float = 120.0
    probe_seconds: float = 5.0
    """How soon to ask again while a probe is under way."""


class BreakerState(Enum):
    """Whether CLIs are started."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    """One launch is under way to see whether it works again."""


class Breaker:
    """Decides about the launches of one host, by monotonic times that the caller gives.

    Whoever ``may_launch`` says how it ended: ``succeeded``, ``failed``, or
    ``given_up`` when it came to no end.
    """

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self.state = BreakerState.CLOSED
        self._rules = rules or BreakerRules()
        self._failures: deque[tuple[float, UserId]] = deque()
        self._pause = self._rules.first_pause_seconds
        self._until = 0.0

    def may_launch(self, now: float) -> bool:
        """Start one? The first who asks after the pause is the probe."""
        if self.state is BreakerState.OPEN and now >= self._until:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def wait_seconds(self, now: float) -> float:
        """How long until it is worth asking again; 0 when launches are let through."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self.state is BreakerState.HALF_OPEN:
            return self._rules.probe_seconds
        return max(0.0, self._until - now)

    def succeeded(self) -> None:
        """A CLI is ready: the host works."""
        self.state = BreakerState.CLOSED
        self._failures.clear()
        self._pause = self._rules.first_pause_seconds

    def failed(self, user_id: UserId, now: float) -> bool:
        """A launch of ``user_id`` failed. True: it opened now."""
        if self.state is BreakerState.HALF_OPEN:
            self._pause = min(2 * self._pause, self._rules.largest_pause_seconds)
            return self._open(now)
        self._failures.append((now, user_id))
        while now - self._failures[0][0] >= self._rules.window_seconds:
            self._failures.popleft()
        many = len(self._failures) >= self._rules.failures
        several = len({user for _at, user in self._failures}) >= self._rules.users
        return self.state is BreakerState.CLOSED and many and several and self._open(now)

    def given_up(self, now: float) -> None:
        """The launch was abandoned: if it was the probe, the next one is."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._until = now

    def _open(self, now: float) -> bool:
        self.state = BreakerState.OPEN
        self._until = now + self._pause
        self._failures.clear()
        return True
