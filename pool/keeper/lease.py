"""How long instances outlive their server: the lease that only an attached server renews."""

from __future__ import annotations

from collections.abc import Callable

from pool.keeper.handover import State
from pool.keeper.loop import Loop, Timer

# a keeper just started is given at least this long to be found by its server
_FIRST_SECONDS = 15.0


class Lease:
    """Calls ``on_expired`` once when no server was attached for ``seconds``."""

    def __init__(self, loop: Loop, seconds: float, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_expired = on_expired
        self._timer: Timer | None = loop.call_later(max(seconds, _FIRST_SECONDS), on_expired)

    def attached(self) -> None:
        """A server is there."""
        self.cancel()

    def detached(self) -> None:
        """No server is there any more."""
        self.cancel()
        self._timer = self._loop.call_later(self._seconds, self._on_expired)

    def to_state(self) -> State:
        """Until when, None while a server is attached."""
        return {"until": None if self._timer is None else self._timer.when}

    def restore(self, state: State) -> None:
        """The way back: an upgrade makes no lease longer."""
        self.cancel()
        if state["until"] is not None:
            self._timer = self._loop.call_at(state["until"], self._on_expired)

    def cancel(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
