"""Commands of one socket in order within a session, side by side between sessions.

So a message that waits for one session's database never holds up the
interrupt of another. The number of commands under way is bounded: beyond it
the reader waits, and with it the client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")

MAX_UNDER_WAY = 64
_FINISH_SECONDS = 5.0


class Lanes(Generic[_Item]):
    """Runs ``carry_out(lane, item)``, which must not raise, one item of a lane at a time."""

    def __init__(self, carry_out: Callable[[str, _Item], Awaitable[None]]) -> None:
        self._carry_out = carry_out
        self._waiting: dict[str, deque[_Item]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(MAX_UNDER_WAY)

    async def add(self, lane: str, item: _Item) -> None:
        """Append ``item``; waits while too many are under way."""
        await self._free.acquire()
        waiting = self._waiting.setdefault(lane, deque())
        waiting.append(item)
        if lane not in self._tasks:
            self._tasks[lane] = asyncio.create_task(self._run(lane, waiting), name=f"ws-lane-{lane}")

    async def aclose(self) -> None:
        """Drop what waits, let what has begun finish, for a few seconds."""
        for waiting in self._waiting.values():
            waiting.clear()
        tasks = list(self._tasks.values())
        if not tasks:
            return
        _done, late = await asyncio.wait(tasks, timeout=_FINISH_SECONDS)
        for task in late:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, lane: str, waiting: deque[_Item]) -> None:
        try:
            while waiting:
                item = waiting.popleft()
                try:
                    await self._carry_out(lane, item)
                finally:
                    self._free.release()
        finally:
            del self._tasks[lane]
            del self._waiting[lane]
