"""How long instances outlive their server: the lease that an attached server renews."""

from __future__ import annotations

from collections.abc import Callable

from pool.keeper.handover import State
from pool.keeper.loop import Loop, Timer

# a keeper just started is given at least this long to be found by its server
_FIRST_SECONDS = 15.0


class Lease:
    """Calls ``on_expired`` once when no server was attached, or none kept its promise, for ``seconds``."""

    def __init__(self, loop: Loop, seconds: float, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_expired = on_expired
        self._timer: Timer | None = loop.call_later(max(seconds, _FIRST_SECONDS), on_expired)
        self._is_attached = False

    def attached(self, promise_seconds: float | None, heard_at: Callable[[], float]) -> None:
        """A server is there.

        One that promised to say something every ``promise_seconds`` renews the lease by that only, since
        its connection may be held by somebody who does not know that it is gone; ``heard_at`` tells when.
        """
        self.cancel()
        self._is_attached = True
        if promise_seconds is not None:
            self._look(promise_seconds + self._seconds, heard_at)

    def detached(self) -> None:
        """No server is there any more."""
        self.cancel()
        self._is_attached = False
        self._timer = self._loop.call_later(self._seconds, self._on_expired)

    def to_state(self) -> State:
        """Until when, None while a server is attached."""
        return {"until": None if self._timer is None or self._is_attached else self._timer.when}

    def restore(self, state: State) -> None:
        """The way back: an upgrade makes no lease longer. ``attached`` follows where a server is."""
        self.cancel()
        if state["until"] is not None:
            self._timer = self._loop.call_at(state["until"], self._on_expired)

    def cancel(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, seconds: float, heard_at: Callable[[], float]) -> None:
        until = heard_at() + seconds
        if until <= self._loop.now():
            self._on_expired()
        else:
            self._timer = self._loop.call_at(until, lambda: self._look(seconds, heard_at))
