"""The way to one host: found at the start, found again after it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pool.errors import PoolError
from pool.runtime.hosts import Host
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)


class Reopening:
    """Looks after one host. ``found`` is awaited each time after it was reached."""

    def __init__(
        self, surroundings: Surroundings, host: Host, found: Callable[[Host], Awaitable[None]]
    ) -> None:
        self._around = surroundings
        self._host = host
        self._found = found
        self._claimed: int | None = None

    async def reach(self) -> None:
        """Attach with an epoch above every other and ask what is there. Raises ``PoolError``."""
        around, host = self._around, self._host
        if self._claimed is None:  # once, however often it is tried
            self._claimed = await around.store.claim_epoch(around.epoch + 1)
            around.epoch = max(around.epoch, self._claimed)
        in_force = await host.launcher.open(self._claimed)
        self._claimed = None
        if in_force > around.epoch:
            around.epoch = max(around.epoch, await around.store.claim_epoch(in_force))
        host.listings = {listing.instance_id: listing for listing in await host.launcher.list()}
        host.trouble = ""
        carries = host.launcher.carries()
        if carries is not None and not host.has_given_capacity:
            host.slots.limit = carries
        host.is_back.set()

    def lost(self) -> None:
        """What ran there is unknown until the host tells; sessions wait for it."""
        host = self._host
        if self._around.is_stopping or not host.is_reached:
            return
        host.is_back.clear()
        host.trouble = "the connection was lost"
        if host.is_here:
            _log.error("the keeper is gone; starting another one")
        else:
            _log.error("the host %s is not reached any more; what runs there goes on", host.name)
        self._around.tasks.start(self.reopen(), f"host:{host.name}")

    async def reopen(self) -> None:
        """Try until it is reached."""
        around, host = self._around, self._host
        for attempt in range(1_000_000):
            await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
            if around.is_stopping:
                return
            try:
                await self.reach()
            except PoolError as error:
                if error.message != host.trouble:
                    host.trouble = error.message
                    _log.error("the host %s is not reached: %s", host.name, error.message)
            else:
                break
        if host.is_here:
            around.counters.keeper_restarts.add()
        _log.info("the host %s is reached", host.name, extra={"epoch": around.epoch})
        await self._found(host)
