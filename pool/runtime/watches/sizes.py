"""How much the workspaces of those who are here take, measured in slices and never in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from pool.clock import Clock
from pool.config import QuotaBook
from pool.model import UserId
from pool.workspace.trees import Usage

_log = logging.getLogger(__name__)

_AGAIN_SECONDS = 60.0
_AGAIN_WHEN_ASKED_SECONDS = 5.0
# A thread that counts is busy for at most a fifth of the time.
_REST_PER_WORK = 4.0
# A slice takes milliseconds: a disk that takes so long for one does not answer.
_SLICE_SECONDS = 10.0


class WorkspaceSizes:
    """Sizes of workspace and home: of users with live instances, and of those who are over their quota.

    ``measure`` counts a user's files, a slice an item; ``live_users`` tells
    whose instances live.
    """

    def __init__(
        self,
        measure: Callable[[UserId], Iterator[Usage]],
        live_users: Callable[[], set[UserId]],
        quotas: QuotaBook,
        clock: Clock,
    ) -> None:
        self._measure = measure
        self._live_users = live_users
        self._quotas = quotas
        self._clock = clock
        self._sizes: dict[UserId, int] = {}
        self._measured_at: dict[UserId, float] = {}
        self._asked: set[UserId] = set()
        self._hanging: dict[UserId, asyncio.Future[Usage | None]] = {}

    def size_of(self, user_id: UserId) -> int:
        """Bytes at the last look; 0 for a user who was not measured."""
        return self._sizes.get(user_id, 0)

    def look_soon(self, user_id: UserId) -> None:
        """Somebody was refused for the size: look again before long, whether they are live or not."""
        self._asked.add(user_id)

    async def look(self) -> None:
        """Measure everybody who is due, one after the other."""
        live = {user for user in self._live_users() if self._limit(user) is not None}
        over = {user for user, size in self._sizes.items() if self._is_over(user, size)}
        wanted = live | over | self._asked
        for user in [user for user in self._measured_at if user not in wanted]:
            del self._measured_at[user]
            self._sizes.pop(user, None)
        for user in sorted(wanted, key=lambda user: self._measured_at.get(user, 0.0)):
            if self._is_due(user):
                self._asked.discard(user)
                await self._look_at(user)

    def _limit(self, user_id: UserId) -> int | None:
        return self._quotas.for_user(user_id).workspace_bytes

    def _is_over(self, user_id: UserId, size: int) -> bool:
        limit = self._limit(user_id)
        return limit is not None and size >= limit

    def _is_due(self, user_id: UserId) -> bool:
        if user_id in self._hanging:
            return False
        last = self._measured_at.get(user_id)
        wait = _AGAIN_WHEN_ASKED_SECONDS if user_id in self._asked else _AGAIN_SECONDS
        return last is None or self._clock.monotonic() - last >= wait

    async def _look_at(self, user_id: UserId) -> None:
        slices = self._measure(user_id)
        size = 0
        try:
            while True:
                began = time.perf_counter()
                work = asyncio.get_running_loop().run_in_executor(None, next, slices, None)
                done, _waiting = await asyncio.wait({work}, timeout=_SLICE_SECONDS)
                if not done:
                    self._hangs(user_id, work)
                    return
                usage = work.result()
                if usage is None:
                    break
                size = usage.bytes
                await asyncio.sleep(_REST_PER_WORK * (time.perf_counter() - began))
        finally:
            with contextlib.suppress(ValueError):  # the slice under way is given up with the generator
                slices.close()  # type: ignore[attr-defined]
            self._measured_at[user_id] = self._clock.monotonic()
        self._sizes[user_id] = size

    def _hangs(self, user_id: UserId, work: asyncio.Future[Usage | None]) -> None:
        """The user's disk does not answer: the others are measured, and this one again when it does."""
        _log.warning("the disk of a workspace does not answer", extra={"user": user_id})
        self._hanging[user_id] = work
        work.add_done_callback(lambda done: self._hangs_no_more(user_id, done))

    def _hangs_no_more(self, user_id: UserId, work: asyncio.Future[Usage | None]) -> None:
        self._hanging.pop(user_id, None)
        if not work.cancelled():
            work.exception()  # it was given up: whatever it is, nobody waits for it
