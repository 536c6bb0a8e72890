"""The keeper died: another one is started, until one is attached again."""

from __future__ import annotations

import asyncio
import logging

from pool.errors import PoolError
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)


class Reopening:
    """Looks after the pool's one keeper."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    def keeper_lost(self) -> None:
        """Every instance of it is gone; sessions wait for the next keeper."""
        if self._around.is_stopping or not self._around.keeper_is_back.is_set():
            return
        self._around.keeper_is_back.clear()
        _log.error("the keeper is gone, and every instance with it; starting another one")
        self._around.tasks.start(self._reopen(), "keeper-reopen")

    async def _reopen(self) -> None:
        for attempt in range(1_000_000):
            await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
            if self._around.is_stopping:
                return
            try:
                epoch = await self._around.store.claim_epoch(self._around.epoch + 1)
                self._around.epoch = max(await self._around.launcher.open(epoch), epoch)
            except PoolError as error:
                _log.error("no keeper yet: %s", error)
            else:
                self._around.counters.keeper_restarts.add()
                _log.info("a keeper is attached again", extra={"epoch": self._around.epoch})
                self._around.keeper_is_back.set()
                return
