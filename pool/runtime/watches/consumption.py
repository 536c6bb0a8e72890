"""What the processes of each instance take: one pass over ``/proc`` for all of them, in a thread.

Memory that processes share is counted for each of them, so the figure errs
to the strict side. Where the kernel holds the limit of memory, that decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping

from pool.launch.process_table import WatchedTree, kernel_holds_memory, watched_trees
from pool.model import InstanceState, UserId
from pool.policy.consumption import (
    CpuHour,
    Lately,
    OutputDay,
    Verdict,
    judge_cpu,
    judge_memory,
    judge_output,
    judge_processes,
)
from pool.runtime.ending import end_at_once
from pool.runtime.instance import Instance
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor
from pool.runtime.watches.far_trees import FarTrees

_log = logging.getLogger(__name__)
_FORGET_SECONDS = 60.0
_JUDGED = (InstanceState.READY, InstanceState.BUSY, InstanceState.DRAINING)


class Consumption:
    """Holds instances to their user's memory, processes and processor time. ``trees``: of the last look."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.trees: Mapping[str, WatchedTree] = {}
        self._kernel_holds_memory = False
        self._supervisor = supervisor
        self._far = FarTrees(supervisor)
        self._around = supervisor.around
        self._cpu_before: dict[str, float] = {}
        self._hours: defaultdict[UserId, Lately] = defaultdict(CpuHour)
        self._looks_above: dict[str, int] = {}
        self._printed_before: dict[str, int] = {}
        self._days: defaultdict[UserId, Lately] = defaultdict(OutputDay)
        self._forgets_at = 0.0

    def cpu_seconds(self, user_id: UserId) -> float:
        """Processor time of all instances of a user in the last hour, as far as this server has seen it."""
        hour = self._hours.get(user_id)
        return hour.used(self._around.clock.monotonic()) if hour is not None else 0.0

    def output_bytes(self, user_id: UserId) -> int:
        """What the user's instances printed in the last 24 hours, as far as this server has seen it."""
        day = self._days.get(user_id)
        return int(day.used(self._around.clock.monotonic())) if day is not None else 0

    async def look(self) -> None:
        """Read ``/proc``, take what other hosts have told, then judge every instance in one step."""
        wanted = {
            str(instance.id): identity
            for instance in self._judged()
            # a pid of another machine is somebody else's here
            if self._supervisor.sessions[instance.key].host.is_here and (identity := _identity(instance))
        }
        keepers = self._around.hosts.supervisor_pids()
        here = await asyncio.to_thread(self._read, wanted, keepers) if wanted and keepers else {}
        self._far.look()
        self.trees = {**self._far.trees(), **here}
        self._count_cpu()
        self._count_output()
        self._forget_users()
        for instance in self._judged():
            tree = self.trees.get(instance.id)
            verdict = self._judge(instance, tree) if tree is not None else None
            verdict = verdict or self._judge_output(instance)
            if verdict is not None:
                self._carry_out(self._supervisor.sessions[instance.key], instance, verdict)

    def _read(self, wanted: Mapping[str, tuple[int, int]], keepers: set[int]) -> Mapping[str, WatchedTree]:
        self._kernel_holds_memory = kernel_holds_memory(self._around.config.data_dir)
        return watched_trees(wanted, keepers)

    def _judged(self) -> list[Instance]:
        return [instance for instance in self._supervisor.live_instances() if instance.state in _JUDGED]

    def _count_cpu(self) -> None:
        now = self._around.clock.monotonic()
        live = {str(instance.id): instance.key.user_id for instance in self._supervisor.live_instances()}
        for instance_id, tree in self.trees.items():
            # The first look at an instance of an earlier server counts nothing: nobody knows since when.
            before = self._cpu_before.get(instance_id, tree.cpu_seconds)
            if instance_id in live:
                self._hours[live[instance_id]].add(tree.cpu_seconds - before, now)
                self._cpu_before[instance_id] = max(before, tree.cpu_seconds)
        for gone in self._cpu_before.keys() - live.keys():
            del self._cpu_before[gone]

    def _count_output(self) -> None:
        now, live = self._around.clock.monotonic(), set()
        for instance in self._supervisor.live_instances():
            live.add(str(instance.id))
            printed = instance.received_offset
            # What an instance of an earlier server printed before the first look is not counted again.
            known = self._printed_before.get(instance.id, instance.first_offset)
            self._days[instance.key.user_id].add(printed - known, now)
            self._printed_before[instance.id] = printed
        for gone in self._printed_before.keys() - live:
            del self._printed_before[gone]

    def _forget_users(self) -> None:
        """Those of whom nothing counts any more; not at each look, which costs by who is live."""
        now = self._around.clock.monotonic()
        if now < self._forgets_at:
            return
        self._forgets_at = now + _FORGET_SECONDS
        for used in (self._hours, self._days):
            for user in [user for user, lately in used.items() if not lately.used(now)]:
                del used[user]

    def _judge_output(self, instance: Instance) -> Verdict | None:
        user = instance.key.user_id
        return judge_output(self.output_bytes(user), self._around.config.quotas.for_user(user))

    def _judge(self, instance: Instance, tree: WatchedTree) -> Verdict | None:
        user = instance.key.user_id
        quota = self._around.config.quotas.for_user(user)
        limit = quota.max_processes
        if limit is not None and tree.processes > limit:
            self._looks_above[instance.id] = self._looks_above.get(instance.id, 0) + 1
        else:
            self._looks_above.pop(instance.id, None)
        is_here = self._supervisor.sessions[instance.key].host.is_here
        return (
            judge_memory(tree.rss_bytes, quota, kernel_holds=is_here and self._kernel_holds_memory)
            or judge_cpu(self.cpu_seconds(user), quota)
            or judge_processes(tree.processes, self._looks_above.get(instance.id, 0), quota)
        )

    def _carry_out(self, session: Session, instance: Instance, verdict: Verdict) -> None:
        ids = {"user": instance.key.user_id, "session": instance.key.session_id, "instance": instance.id}
        if verdict.ends_instance:
            self._looks_above.pop(instance.id, None)
            self._around.counters.limit_ends.add(verdict.reason.code)
            _log.warning("instance ended for what it took", extra=ids | {"code": verdict.reason.code})
            end_at_once(session, instance, verdict.reason)
        elif session.turns.open_turn is not None and not session.turns.open_turn.is_interrupting:
            _log.warning("turn interrupted for what it took", extra=ids | {"code": verdict.reason.code})
            session.turns.interrupt_open(verdict.reason)
            session.log.flush()


def _identity(instance: Instance) -> tuple[int, int] | None:
    identity = instance.handle.identity if instance.handle is not None else None
    return (identity.pid, identity.start_ticks) if identity is not None else None
