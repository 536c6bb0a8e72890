"""Committing a session's log again and again until the database takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pool.errors import PoolError, Refused, StoreUnavailable
from pool.model import SessionKey
from pool.runtime.counting import Counters
from pool.store.base import Operation, Store

_log = logging.getLogger(__name__)
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Committer:
    """Stores the batches of one session."""

    def __init__(self, key: SessionKey, store: Store) -> None:
        self._key = key
        self._store = store

    async def commit(self, operations: Sequence[Operation], counters: Counters) -> None:
        """Returns when all of it is stored; what contradicts the store is left out and logged."""
        for attempt in range(1_000_000):
            try:
                await self._store.commit(operations)
            except Refused:
                _log.exception("operations of session %s contradict the store; storing one by one", self._key)
                await self._singly(operations)
                return
            except PoolError as error:
                counters.commits.add("failed")
                _log.warning("session %s: commit failed, trying again: %s", self._key, error.message)
                await _pause(attempt)
            else:
                counters.commits.add("stored")
                return

    async def _singly(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            try:
                await self._one(operation)
            except PoolError as error:
                _log.error("session %s: %s was not stored: %s", self._key, type(operation).__name__, error)

    async def _one(self, operation: Operation) -> None:
        for attempt in range(1_000_000):
            try:
                await self._store.commit([operation])
            except StoreUnavailable:
                await _pause(attempt)
            else:
                return


async def _pause(attempt: int) -> None:
    await asyncio.sleep(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)])
