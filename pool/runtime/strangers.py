"""Live instances that no session knows of: their server died before their row was committed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection

from pool.errors import PoolError
from pool.launch.base import StopGraces
from pool.model import InstanceId
from pool.runtime.hosts import Host
from pool.runtime.surroundings import Surroundings

_log = logging.getLogger(__name__)


async def end_strangers(around: Surroundings, host: Host, known: Collection[InstanceId]) -> list[InstanceId]:
    """End those of ``host`` that live and are not ``known``; returns which."""
    listings = host.listings
    found = [one for one, listing in listings.items() if listing.exit_status is None and one not in known]
    for instance_id in found:
        around.counters.orphans.add()
        _log.warning("instance %s belongs to no session and is ended", instance_id)
        with contextlib.suppress(PoolError):  # it went away by itself
            handle = await host.launcher.attach(instance_id, listings[instance_id].end_offset, _Stranger())
            await handle.stop(StopGraces(end_of_input=0, term=1))
    return found


class _Stranger:
    """The sink of an instance that nobody wants."""

    def data_received(self, offset: int, data: bytes) -> None:
        """Dropped."""

    def exited(self, status: object, stderr_tail: str) -> None:
        """Good."""

    def launcher_lost(self) -> None:
        """Then it is gone as well."""
