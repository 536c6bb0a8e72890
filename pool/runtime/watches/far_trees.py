"""What the processes of instances on other machines take, as their hosts tell: asked for now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from pool.errors import PoolError
from pool.launch.process_table import WatchedTree
from pool.runtime.hosts import Host
from pool.runtime.supervisor import Supervisor

_log = logging.getLogger(__name__)
# Each is a question over the link and one pass over the ``/proc`` there.
_EVERY_SECONDS = 10.0


class FarTrees:
    """The last that each host told; of one that cannot be reached, or does not tell, there is nothing.

    The sandbox around a CLI is counted here, and processor time of children that have ended is not.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._around = supervisor.around
        self._told: dict[str, Mapping[str, WatchedTree]] = {}
        self._asked_at: dict[str, float] = {}
        self._asking: set[str] = set()

    def trees(self) -> dict[str, WatchedTree]:
        """By instance."""
        return {one: tree for trees in self._told.values() for one, tree in trees.items()}

    def look(self) -> None:
        """Ask whoever is due; nobody is waited for."""
        now = self._around.clock.monotonic()
        for host in self._around.hosts:
            if host.is_here or host.name in self._asking:
                continue
            if not host.is_reached:
                self._told.pop(host.name, None)
            elif now - self._asked_at.get(host.name, -_EVERY_SECONDS) >= _EVERY_SECONDS:
                self._asked_at[host.name] = now
                self._asking.add(host.name)
                self._around.tasks.start(self._ask(host), f"far-trees:{host.name}")

    async def _ask(self, host: Host) -> None:
        live = self._supervisor.live_instances(host=host)
        pids = {str(one.id): one.pid for one in live if one.pid is not None and not one.is_lost}
        try:
            report = await asyncio.to_thread(host.launcher.process_report, pids, list(pids), ())
        except PoolError as error:
            _log.info("host %s does not tell what its instances take: %s", host.name, error.message)
            self._told.pop(host.name, None)
        else:
            self._told[host.name] = {
                one: WatchedTree(tree.processes, tree.rss_bytes, tree.cpu_seconds, ())
                for one, tree in report.trees.items()
            }
        finally:
            self._asking.discard(host.name)
