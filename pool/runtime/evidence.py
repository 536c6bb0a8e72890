"""What the pool can tell of itself: its health, its counters with the gauges of the moment, its processes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

from pool.launch.process_table import ProcessReport, count_zombies
from pool.model import InstanceState
from pool.policy.health import Health
from pool.runtime import figures
from pool.runtime.checks import Checks
from pool.runtime.counters import Metric, gauge, gauges
from pool.runtime.supervisor import Supervisor
from pool.runtime.watches.watches import Watches

_SHOWN_STATES = ("starting", "ready", "busy", "stopping", "stuck")


class Evidence:
    """The part of the front door that operators ask."""

    _supervisor: Supervisor
    _checks: Checks
    _watches: Watches
    _is_draining: bool

    def health(self) -> dict[str, Any]:
        """The pool's part of ``GET /health``; starts and touches nothing."""
        counts = Counter(instance.state for instance in self._supervisor.live_instances())
        users = {instance.key.user_id for instance in self._supervisor.live_instances()}
        slots = self._supervisor.around.slots
        checks = {**self._checks.results(), "stuck": _stuck(counts[InstanceState.STUCK])}
        instances = {state: counts[InstanceState(state)] for state in _SHOWN_STATES}
        instances["busy"] += counts[InstanceState.DRAINING]
        worst = "ok" if all(check["ok"] for check in checks.values()) else "degraded"
        return {
            "status": "draining" if self._is_draining else worst,
            "instances": {"total": sum(counts.values()), **instances},
            "users": {"active": len(users)},
            "queue": {
                "length": slots.queue_length,
                "oldest_seconds": slots.oldest_wait(self._supervisor.around.clock.monotonic()),
            },
            "checks": checks,
        }

    def uid_range(self) -> tuple[int, int] | None:
        """(first, last) of the Linux uids that users get, None where all run as the service."""
        return self._supervisor.around.launcher.uid_range()

    def gateway_user(self) -> tuple[int | None, str | None]:
        """(uid of the model gateway, None for the service's own; what keeps it from having one, or None)."""
        return self._supervisor.around.launcher.gateway_user()

    async def run_checks(self) -> None:
        """Look again at what the health page tells: database, disk, keeper."""
        await self._checks.run()

    def unready_reasons(self) -> list[str]:
        """Why new work is not admitted; empty when it is."""
        reasons = ["draining"] if self._is_draining else []
        if not self._supervisor.around.keeper_is_back.is_set():
            reasons.append("no keeper")
        if (trouble := self._watches.disk.trouble) is not None:
            reasons.append(trouble)
        if (trouble := self._checks.database_trouble) is not None:
            reasons.append(trouble)
        return reasons

    async def metrics(self) -> list[Metric]:
        """All counters and gauges. ``/proc`` is read in a thread, a few small files an instance."""
        around = self._supervisor.around
        found = [*around.counters.metrics(), *self._gauges()]
        pids = [instance.pid for instance in self._supervisor.live_instances() if instance.pid is not None]
        return found + await asyncio.to_thread(_process_gauges, pids, around.launcher.supervisor_pids())

    async def process_report(self) -> ProcessReport:
        """The trees of all live instances and the orphans, from one pass over ``/proc`` in a thread."""
        around = self._supervisor.around
        # What lives without a session (one that tries the CLI out) is the keeper's all the same.
        listed = {one.instance_id for one in await around.launcher.list() if one.exit_status is None}
        live = self._supervisor.live_instances()
        pids = {str(instance.id): instance.pid for instance in live if instance.pid is not None}
        known = {str(one) for one in listed | {instance.id for instance in live}}
        keepers = around.launcher.supervisor_pids()
        return await asyncio.to_thread(around.launcher.process_report, pids, known, keepers)

    def _gauges(self) -> list[Metric]:
        around = self._supervisor.around
        sessions = list(self._supervisor.sessions.values())
        states = Counter(instance.state for instance in self._supervisor.live_instances())
        alive = [state for state in InstanceState if state is not InstanceState.EXITED]
        slots = around.slots
        healths = Counter(session.doubt.health for session in sessions if session.instance is not None)
        viewers = sum(len(session.channel.subscriptions) for session in sessions)
        waiting = sum(len(session.approvals) for session in sessions)
        return [
            gauges(
                "claude_pool_instances",
                "Live instances by state.",
                "state",
                [(state.value, states[state]) for state in alive],
            ),
            gauges(
                "claude_pool_instances_health",
                "Live instances by how they are, as far as is known without asking them.",
                "health",
                [(health.value, healths[health]) for health in Health if health is not Health.DEAD],
            ),
            gauge("claude_pool_instances_limit", "Instances that may live at a time.", slots.limit),
            gauge("claude_pool_slots_taken", "Slots that are taken.", len(slots.holders)),
            gauge("claude_pool_sessions", "Sessions in memory.", len(sessions)),
            gauge("claude_pool_waiting", "Sessions in line for an instance.", slots.queue_length),
            gauge(
                "claude_pool_oldest_wait_seconds",
                "How long the first in line has waited; 0 when nobody waits.",
                slots.oldest_wait(around.clock.monotonic()),
            ),
            gauge("claude_pool_backlog_bytes", "What waits in memory to be stored.", around.backlog.total),
            gauge(
                "claude_pool_backlog_held",
                "Sessions whose CLI waits because the database does not take its output.",
                around.backlog.held,
            ),
            gauge("claude_pool_viewers", "Subscriptions to sessions.", viewers),
            gauge("claude_pool_permissions_open", "Approvals that wait for an answer.", waiting),
            gauge(
                "claude_pool_launches_paused",
                "1 while no instance is started because launches of several users failed.",
                around.launches.are_paused,
            ),
            gauge("claude_pool_keeper_up", "1 while a keeper is attached.", around.keeper_is_back.is_set()),
        ]


def _stuck(count: int) -> dict[str, Any]:
    detail = "every process that was to end did"
    if count:
        detail = (
            f"{count} outlived KILL, or the keeper does not say whether they live: their slots stay taken"
        )
    return {"ok": not count, "detail": detail}


def _process_gauges(pids: list[int], keepers: set[int]) -> list[Metric]:
    zombies = [("server", count_zombies(os.getpid()))]
    zombies += [("keeper", count_zombies(keeper)) for keeper in sorted(keepers)]
    return [
        gauge(
            "claude_pool_keeper_open_fds",
            "Descriptors of the keeper.",
            sum(figures.open_descriptors(keeper) for keeper in keepers),
        ),
        gauges("claude_pool_zombies", "Ended children that were not collected, by parent.", "of", zombies),
        gauge(
            "claude_pool_instances_rss_bytes",
            "Resident memory of all CLI processes, without the tools that they run.",
            sum(figures.rss_bytes(pid) for pid in pids),
        ),
    ]
