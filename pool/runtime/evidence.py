"""What the pool can tell of itself: its health, its counters with the gauges of the moment, its processes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pool.errors import PoolError
from pool.launch.process_table import ProcessReport, StrayProcess, TreeFigures, count_zombies
from pool.model import InstanceInfo, InstanceState
from pool.policy.health import Health
from pool.runtime import figures
from pool.runtime.checks import Checks
from pool.runtime.counters import Metric, gauge, gauges
from pool.runtime.hosts import Host
from pool.runtime.instance import Instance
from pool.runtime.supervisor import Supervisor
from pool.runtime.watches.watches import Watches

_log = logging.getLogger(__name__)
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
        hosts = self._supervisor.around.hosts
        checks = {**self._checks.results(), "stuck": _stuck(counts[InstanceState.STUCK])}
        instances = {state: counts[InstanceState(state)] for state in _SHOWN_STATES}
        instances["busy"] += counts[InstanceState.DRAINING]
        worst = "ok" if all(check["ok"] for check in checks.values()) else "degraded"
        return {
            "status": "draining" if self._is_draining else worst,
            "instances": {"total": sum(counts.values()), **instances},
            "users": {"active": len(users)},
            "queue": {
                "length": sum(host.slots.queue_length for host in hosts),
                "oldest_seconds": self._oldest_wait(),
            },
            "checks": checks,
        }

    def _info(self, instance: Instance) -> InstanceInfo:
        host = self._supervisor.sessions[instance.key].host
        # a pid of another machine is somebody else's here: what it takes is what its host told last
        pid = instance.pid if host.is_here else None
        tree = None if host.is_here else self._watches.consumption.trees.get(instance.id)
        return InstanceInfo(
            instance.id,
            instance.key.user_id,
            instance.key.session_id,
            instance.state,
            instance.pid,
            instance.started_at,
            instance.turns,
            tree.rss_bytes if tree is not None else figures.rss_bytes(pid),
            tree.cpu_seconds if tree is not None else figures.cpu_seconds(pid),
            instance.handle.isolation if instance.handle is not None else "none",
            host.name,
        )

    def uid_range(self) -> tuple[int, int] | None:
        """(first, last) of the Linux uids that users get, None where all run as the service."""
        here = self._supervisor.around.hosts.here
        return here.launcher.uid_range() if here is not None else None

    def gateway_user(self) -> tuple[int | None, str | None]:
        """(uid of the model gateway, None for the service's own; what keeps it from having one, or None)."""
        here = self._supervisor.around.hosts.here
        return here.launcher.gateway_user() if here is not None else (None, None)

    async def run_checks(self) -> None:
        """Look again at what the health page tells: database, disk, keeper."""
        await self._checks.run()

    def unready_reasons(self) -> list[str]:
        """Why new work is not admitted; empty when it is."""
        reasons = ["draining"] if self._is_draining else []
        hosts = self._supervisor.around.hosts
        if not hosts.reached:
            reasons.append("no keeper" if len(hosts) == 1 else "no host")
        if (trouble := self._watches.disk.trouble) is not None:
            reasons.append(trouble)
        if (trouble := self._checks.database_trouble) is not None:
            reasons.append(trouble)
        return reasons

    async def metrics(self) -> list[Metric]:
        """All counters and gauges. ``/proc`` is read in a thread, a few small files an instance."""
        around = self._supervisor.around
        found = [*around.counters.metrics(), *self._gauges()]
        here = around.hosts.here
        instances = self._supervisor.live_instances(host=here) if here is not None else []
        pids = [instance.pid for instance in instances if instance.pid is not None]
        return found + await asyncio.to_thread(_process_gauges, pids, around.hosts.supervisor_pids())

    def hosts(self) -> list[dict[str, Any]]:
        """Every machine: ``{"name", "is_reached", "trouble", "slots", "slots_taken", "waiting", "users"}``.

        ``trouble`` is why it is not reached.
        """
        hosts = self._supervisor.around.hosts
        return [
            {
                "name": host.name,
                "is_reached": host.is_reached,
                "trouble": "" if host.is_reached else host.trouble,
                "slots": host.slots.limit,
                "slots_taken": len(host.slots.holders),
                "waiting": host.slots.queue_length,
                "users": hosts.users_on(host.name),
            }
            for host in hosts
        ]

    async def process_report(self) -> ProcessReport:
        """The trees of all live instances and the orphans, each host's from one pass over its ``/proc``.

        A host that cannot be reached is left out.
        """
        hosts = [host for host in self._supervisor.around.hosts if host.is_here or host.is_reached]
        reports = await asyncio.gather(*(self._report(host) for host in hosts), return_exceptions=True)
        trees: dict[str, TreeFigures] = {}
        orphans: list[StrayProcess] = []
        for host, report in zip(hosts, reports, strict=True):
            if isinstance(report, ProcessReport):
                trees |= report.trees
                orphans += report.orphans
            elif host.is_here or not isinstance(report, PoolError):
                raise report
            else:
                _log.warning("the processes of the host %s are not told: %s", host.name, report.message)
        return ProcessReport(trees, orphans)

    async def _report(self, host: Host) -> ProcessReport:
        # What lives without a session (one that tries the CLI out) is the keeper's all the same.
        listed = {one.instance_id for one in await host.launcher.list() if one.exit_status is None}
        live = self._supervisor.live_instances(host=host)
        pids = {str(instance.id): instance.pid for instance in live if instance.pid is not None}
        known = {str(one) for one in listed | {instance.id for instance in live}}
        keepers = host.launcher.supervisor_pids()
        return await asyncio.to_thread(host.launcher.process_report, pids, known, keepers)

    def _oldest_wait(self) -> float:
        around = self._supervisor.around
        return max(host.slots.oldest_wait(around.clock.monotonic()) for host in around.hosts)

    def _gauges(self) -> list[Metric]:
        around = self._supervisor.around
        sessions = list(self._supervisor.sessions.values())
        states = Counter(instance.state for instance in self._supervisor.live_instances())
        alive = [state for state in InstanceState if state is not InstanceState.EXITED]
        hosts = list(around.hosts)
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
            gauge("claude_pool_sessions", "Sessions in memory.", len(sessions)),
            gauge("claude_pool_backlog_bytes", "What waits in memory to be stored.", around.backlog.total),
            gauge(
                "claude_pool_backlog_held",
                "Sessions whose CLI waits because the database does not take its output.",
                around.backlog.held,
            ),
            gauge("claude_pool_viewers", "Subscriptions to sessions.", viewers),
            gauge("claude_pool_permissions_open", "Approvals that wait for an answer.", waiting),
            *self._slot_gauges(hosts),
            *_host_gauges(hosts),
        ]

    def _slot_gauges(self, hosts: Sequence[Host]) -> list[Metric]:
        """Of all hosts together."""
        return [
            gauge(
                "claude_pool_instances_limit",
                "Instances that may live at a time.",
                sum(host.slots.limit for host in hosts),
            ),
            gauge(
                "claude_pool_slots_taken",
                "Slots that are taken.",
                sum(len(host.slots.holders) for host in hosts),
            ),
            gauge(
                "claude_pool_waiting",
                "Sessions in line for an instance.",
                sum(host.slots.queue_length for host in hosts),
            ),
            gauge(
                "claude_pool_oldest_wait_seconds",
                "How long the first in line has waited; 0 when nobody waits.",
                self._oldest_wait(),
            ),
            gauge(
                "claude_pool_launches_paused",
                "1 while no instance is started because launches of several users failed.",
                any(host.launches.are_paused for host in hosts),
            ),
            gauge("claude_pool_keeper_up", "1 while a keeper is attached.", any(h.is_reached for h in hosts)),
        ]


def _stuck(count: int) -> dict[str, Any]:
    detail = "every process that was to end did"
    if count:
        detail = (
            f"{count} outlived KILL, or the keeper does not say whether they live: their slots stay taken"
        )
    return {"ok": not count, "detail": detail}


def _host_gauges(hosts: Sequence[Host]) -> list[Metric]:
    return [
        gauges(
            "claude_pool_host_up",
            "1 while the host is reached.",
            "host",
            [(host.name, host.is_reached) for host in hosts],
        ),
        gauges(
            "claude_pool_host_slots_taken",
            "Slots that are taken, by host.",
            "host",
            [(host.name, len(host.slots.holders)) for host in hosts],
        ),
        gauges(
            "claude_pool_host_slots",
            "Instances that may live at a time, by host.",
            "host",
            [(host.name, host.slots.limit) for host in hosts],
        ),
    ]


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
