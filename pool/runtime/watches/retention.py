"""Once a day: history that is older than it is kept, and directories that nobody knows any more."""

from __future__ import annotations

import asyncio
import logging

from pool.launch.leftovers import remove_leftovers
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)
_DAY_SECONDS = 86400.0
_IDEMPOTENCY_DAYS = 7
"""The same message again gives the first answer for so long, however short history is kept."""


class Retention:
    """Removes what is older than ``retention_days``."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings

    async def look(self) -> None:
        """Prune the database, then the data directory."""
        now, days = self._around.clock.wall(), self._around.config.retention_days
        before = now - days * _DAY_SECONDS
        turns_before = now - max(days, _IDEMPOTENCY_DAYS) * _DAY_SECONDS
        rows = await self._around.store.prune(before, turns_before)
        audited = await self._around.store.prune_audit(
            now - self._around.config.audit_retention_days * _DAY_SECONDS
        )
        listed = await self._around.launcher.list()
        known = {str(listing.instance_id) for listing in listed}
        directories = await asyncio.to_thread(
            remove_leftovers, self._around.config.data_dir, known, now - _DAY_SECONDS
        )
        _log.info("old history removed", extra={"rows": rows, "audited": audited, "directories": directories})
