"""The ladder by which an instance is stopped; it goes on when the server that asked has died."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pool.keeper.handover import State
from pool.keeper.loop import Loop, Timer


@dataclass(frozen=True, slots=True)
class Graces:
    """Seconds for each rung; 0 skips it."""

    end_of_input: float = 2.0
    term: float = 5.0
    kill: float = 5.0

    def of(self, rung: int) -> float:
        """The grace of rung 0, 1 or 2."""
        return (self.end_of_input, self.term, self.kill)[rung]


_KILL_RUNG = 2


class Ladder:
    """End of input, TERM to the CLI itself, KILL of the whole tree, each with a grace.

    ``actions`` are the three rungs. ``on_exhausted`` is called when the
    instance outlives the last; whoever sees the instance end calls ``cancel``.
    """

    def __init__(
        self,
        loop: Loop,
        actions: tuple[Callable[[], None], Callable[[], None], Callable[[], None]],
        on_exhausted: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._actions = actions
        self._on_exhausted = on_exhausted
        self._rung = -1
        self._graces = Graces()
        self._timer: Timer | None = None
        self._ended = False

    @property
    def is_climbing(self) -> bool:
        """Was a stop begun?"""
        return self._rung >= 0

    def climb(self, graces: Graces) -> None:
        """Begin, or hurry: a second call can only shorten the rung that is being waited on."""
        if self._ended:
            return
        self._graces = graces
        if self._rung < 0:
            self._step()
        elif self._rung <= _KILL_RUNG:
            limit = self._loop.now() + graces.of(self._rung)
            if self._timer is not None and self._timer.when > limit:
                self._wait_until(limit)

    def to_state(self) -> State:
        """Where it stands, and until when."""
        waits = self._timer is not None and self._timer.is_pending
        return {
            "rung": self._rung,
            "graces": [self._graces.end_of_input, self._graces.term, self._graces.kill],
            "until": self._timer.when if self._timer is not None and waits else None,
            "ended": self._ended,
        }

    def restore(self, state: State) -> None:
        """The way back: the rung that is waited on is waited on."""
        self._rung = state["rung"]
        self._graces = Graces(*state["graces"])
        self._ended = state["ended"]
        if state["until"] is not None:
            self._wait_until(state["until"])

    def cancel(self) -> None:
        """The instance is gone."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        self._rung += 1
        while self._rung < _KILL_RUNG and self._graces.of(self._rung) <= 0:
            self._rung += 1
        if self._rung > _KILL_RUNG:
            self._on_exhausted()
            return
        self._actions[self._rung]()
        if not self._ended:
            self._wait_until(self._loop.now() + self._graces.of(self._rung))

    def _wait_until(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - self._loop.now()), self._step)
