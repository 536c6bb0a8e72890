"""Once a day: what is older than it is kept, and directories that nobody knows any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from pool.errors import KeeperUnavailable, PoolError, Refused
from pool.model import UserId
from pool.runtime.hosts import Host
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)
_DAY_SECONDS = 86400.0
_IDEMPOTENCY_DAYS = 7
"""The same message again gives the first answer for so long, however short history is kept."""
_USAGE_DAYS = 62
"""Budgets of the month and the report of the last one need these, however short history is kept."""
# A thread that removes is busy for at most a fifth of the time.
_REST_PER_WORK = 4.0


class Retention:
    """Removes what is older than ``retention_days``, and audit records by a limit of their own."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    async def look(self) -> None:
        """Prune the database, the data directory, then the homes one after the other."""
        around, now = self._around, self._around.clock.wall()
        days = around.config.retention_days
        before = now - days * _DAY_SECONDS
        turns_before = now - max(days, _IDEMPOTENCY_DAYS) * _DAY_SECONDS
        rows = await around.store.prune(before, turns_before, now - max(days, _USAGE_DAYS) * _DAY_SECONDS)
        audited = await around.store.prune_audit(now - around.config.audit_retention_days * _DAY_SECONDS)
        directories = sum([await self._remove_leftovers(host, now - _DAY_SECONDS) for host in around.hosts])
        files = await self._prune_homes(before)
        removed = {"rows": rows, "audited": audited, "directories": directories, "files": files}
        _log.info("old history removed", extra=removed)

    async def _remove_leftovers(self, host: Host, before: float) -> int:
        """One that cannot be reached is left for another day."""
        try:
            known = {str(listing.instance_id) for listing in await host.launcher.list()}
            return await asyncio.to_thread(host.launcher.remove_leftovers, known, before)
        except KeeperUnavailable as error:
            if host.is_here:
                raise
            _log.warning("old directories of the host %s stay: %s", host.name, error.message)
            return 0

    async def _prune_homes(self, before: float) -> int:
        """Also of those who have no account any more; one that cannot be pruned stops no other."""
        files = 0
        for name in await asyncio.to_thread(self._around.workspaces.homes):
            try:
                files += await self._prune_home(UserId(name), before)
            except Refused:
                continue  # it is no user's
            except PoolError as error:
                _log.warning("the home of %s was not pruned: %s", name, error.message)
        return files

    async def _prune_home(self, user_id: UserId, before: float) -> int:
        kept = await self._around.store.resumable(user_id, before)
        return await _in_slices(self._around.workspaces.prune_home(user_id, kept, before))


async def _in_slices(slices: Iterator[int]) -> int:
    total = 0
    try:
        while True:
            began = time.perf_counter()
            removed = await asyncio.to_thread(next, slices, None)
            if removed is None:
                return total
            total += removed
            await asyncio.sleep(_REST_PER_WORK * (time.perf_counter() - began))
    finally:
        with contextlib.suppress(ValueError):  # the slice under way is given up with the generator
            slices.close()  # type: ignore[attr-defined]
