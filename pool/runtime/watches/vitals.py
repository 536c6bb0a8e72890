"""Who gives cause for doubt is asked; who is worn is replaced while nobody needs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from pool.launch.process_table import WatchedTree
from pool.model import InstanceState
from pool.policy.health import IdleFacts, WearLimits, is_doubtful, is_worn
from pool.runtime.instance import Instance
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor

_log = logging.getLogger(__name__)
_LOOKED_AT = (InstanceState.READY, InstanceState.BUSY)


class Vitals:
    """Looks at every instance that works or rests; asks nothing of those that are merely idle."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        config = supervisor.around.config
        self._limits = WearLimits(
            idle_rss_bytes=config.recycle_idle_memory_bytes,
            idle_spin_seconds=config.recycle_idle_cpu_seconds,
        )
        self._stopped_looks: dict[str, int] = {}
        self._idle: dict[str, tuple[float, float, float]] = {}

    def look(self, trees: Mapping[str, WatchedTree]) -> None:
        """Judge every instance in one step. ``trees`` are their processes, where known."""
        now, seen = asyncio.get_running_loop().time(), set()
        for instance in self._supervisor.live_instances():
            if instance.state not in _LOOKED_AT or instance.is_lost:
                continue
            seen.add(str(instance.id))
            session, tree = self._supervisor.sessions[instance.key], trees.get(instance.id)
            self._doubt(session, instance, tree, now)
            if tree is not None and session.is_idle:
                self._wear(session, instance, tree)
            else:
                self._idle.pop(instance.id, None)
        for kept in (self._stopped_looks, self._idle):
            for gone in kept.keys() - seen:
                del kept[gone]

    def _doubt(self, session: Session, instance: Instance, tree: WatchedTree | None, now: float) -> None:
        is_stopped = tree is not None and tree.is_stopped
        looks = self._stopped_looks.get(instance.id, 0) + 1 if is_stopped else 0
        self._stopped_looks[instance.id] = looks
        if is_doubtful(
            has_open_turn=session.turns.open_turn is not None,
            silent_seconds=now - instance.heard_at,
            stopped_looks=looks,
        ):
            session.doubt.ask(instance)

    def _wear(self, session: Session, instance: Instance, tree: WatchedTree) -> None:
        now, since = self._supervisor.around.clock.monotonic(), session.idleness.since
        begun = self._idle.get(instance.id)
        if begun is None or begun[0] != since:
            begun = self._idle[instance.id] = (since, now, tree.cpu_seconds)
        facts = IdleFacts(
            idle_seconds=now - begun[1],
            cpu_seconds=tree.cpu_seconds - begun[2],
            rss_bytes=tree.rss_bytes,
        )
        why = is_worn(facts, self._limits)
        if why is not None:
            more = {"user": session.key.user_id, "session": session.key.session_id, "instance": instance.id}
            _log.info("instance replaced: %s", why, extra=more)
            session.idleness.park(why)
