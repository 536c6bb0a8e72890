"""An event loop whose time is a number and whose order is a seed's.

Time stands still while anything can run and then jumps to the next timer, so
that an hour costs as much as what happens in it. Nothing comes from outside:
what would be done by a thread is done by the loop, after a while.

What is shuffled, and what is not. asyncio runs callbacks in the order in which
they were scheduled, and promises it for ``call_soon``. It does not promise in
which order the tasks that can run at a moment take their steps: that follows
from which of them was woken first, by a socket, a thread or another task. So the
steps of different tasks that are ready together change places, each staying the
only one of its task; callbacks of futures, timers and ``call_soon`` keep their
places between them. Timers never come early and may come late.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

LATE_SECONDS = 0.002
_STEP_SECONDS = 1e-6
# so many rounds of the loop in which nobody waits for anything are a loop that turns for ever
_MOST_ROUNDS = 100_000


class Stalled(Exception):
    """Nothing will ever happen any more, or everything happens for ever at the same moment."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """See the module. ``random`` is for everything that the world of this loop leaves to chance."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.shuffled = 0
        self.numbers = itertools.count()
        self.set_task_factory(lambda _loop, coro, **more: NumberedTask(coro, loop=self, **more))
        self._now = 0.0
        self._rounds = 0

    def time(self) -> float:
        """Seconds since the beginning of the world."""
        return self._now

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As it is, but up to ``LATE_SECONDS`` later."""
        late = self.random.random() * LATE_SECONDS
        return super().call_at(when + late, callback, *args, context=context)

    def run_in_executor(self, _executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Done by the loop, a moment later, whether somebody still waits or not."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - as a thread's: whoever waits gets it
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.latency(), work)
        return future

    def latency(self) -> float:
        """How long something outside takes: mostly next to nothing, now and then long."""
        return self.random.choice((0.0, 0.0005, 0.002, 0.002, 0.01, 0.1))

    def _run_once(self) -> None:
        if self._ready:  # type: ignore[attr-defined]
            self._rounds += 1
            if self._rounds > _MOST_ROUNDS:
                self._rounds = 0
                raise Stalled("the loop turns and time does not pass")
            self._now += _STEP_SECONDS
        else:
            self._jump()
        self._shuffle()
        super()._run_once()  # type: ignore[misc]

    def _jump(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        waiting = [timer.when() for timer in timers if not timer.cancelled()]
        if not waiting:
            raise Stalled("everybody waits and no timer will wake anybody")
        self._now = max(self._now, min(waiting))
        self._rounds = 0

    def _shuffle(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        places = [index for index, handle in enumerate(ready) if _is_step(handle)]
        if len(places) < 2:
            return
        steps = [ready[index] for index in places]
        self.random.shuffle(steps)
        self.shuffled += 1
        for index, handle in zip(places, steps, strict=True):
            ready[index] = handle


class NumberedTask(asyncio.Task[T]):
    """Sets of tasks go through them in an order that does not depend on where they lie in memory."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: SimulatedLoop, **more: Any) -> None:
        self._number = next(loop.numbers)
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


def _is_step(handle: Any) -> bool:
    """Will it run a task on?"""
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)


class SimulatedClock:
    """The loop's time as a ``pool.clock.Clock``."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return 1000.0 + self._loop.time()

    def wall(self) -> float:
        return 1_700_000_000.0 + self._loop.time()
