"""A look that is made again and again, by one task that is owned and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pool.runtime.surroundings import Tasks

_log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[None]]


class Rounds:
    """The tasks of all watches of one pool. One look ends before the next of its kind begins."""

    def __init__(self, tasks: Tasks) -> None:
        self._owner = tasks
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, look: Look, every_seconds: float, *, after_seconds: float = 0.0) -> None:
        """Look first ``after_seconds`` from now, then ``every_seconds`` after each look has ended."""
        work = _again_and_again(name, look, every_seconds, after_seconds)
        self._tasks.append(self._owner.spawn(work, f"watch:{name}"))

    async def aclose(self) -> None:
        """No further look; one that is under way is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


async def _again_and_again(name: str, look: Look, every_seconds: float, after_seconds: float) -> None:
    await asyncio.sleep(after_seconds)
    while True:
        try:
            await look()
        except Exception:  # noqa: BLE001 - a watch that failed once must not be blind from then on
            _log.exception("the watch %s failed and goes on", name)
        await asyncio.sleep(every_seconds)
