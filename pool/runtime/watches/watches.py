"""All watches of one pool, and what turns are refused for because of them."""

from __future__ import annotations

from typing import Any

from pool.config import Quota
from pool.errors import Refused
from pool.model import UserId
from pool.policy.quota import Usage, check_usage
from pool.runtime.supervisor import Supervisor
from pool.runtime.turn_admission import TurnAdmission
from pool.runtime.unloading import Unloading
from pool.runtime.watches.consumption import Consumption
from pool.runtime.watches.data_sizes import DataSizes
from pool.runtime.watches.disk import DiskReserve
from pool.runtime.watches.holds import Holds
from pool.runtime.watches.retention import Retention
from pool.runtime.watches.rounds import Rounds
from pool.runtime.watches.sizes import WorkspaceSizes
from pool.runtime.watches.stalls import Stalls
from pool.runtime.watches.vitals import Vitals

_DISK_SECONDS = 5.0
_SIZES_SECONDS = 1.0
_INSTANCES_SECONDS = 2.0
_APPROVALS_SECONDS = 2.0
_UNLOAD_SECONDS = 10.0
_RETENTION_SECONDS = 86400.0
_DATA_SECONDS = 3600.0
_FIRST_DATA_SECONDS = 5.0
_FIRST_RETENTION_SECONDS = 300.0


class Watches:
    """Started when the pool is, ended before its instances are."""

    def __init__(self, supervisor: Supervisor, admission: TurnAdmission) -> None:
        around = supervisor.around
        self.disk = DiskReserve(around.config.data_dir, around.config.disk_reserve_bytes)
        self.sizes = WorkspaceSizes(
            around.workspaces.measure,
            lambda: {instance.key.user_id for instance in supervisor.live_instances()},
            around.config.quotas,
            around.clock,
        )
        self.consumption = Consumption(supervisor)
        self.stalls = Stalls(supervisor)
        self.vitals = Vitals(supervisor)
        self.holds = Holds(supervisor)
        self.retention = Retention(around)
        self.unloading = Unloading(supervisor, admission.forget)
        self.data_sizes = DataSizes(around.workspaces.data_sizes)
        self._rounds = Rounds(around.tasks)
        admission.limits.append(self._refusal)

    async def start(self) -> None:
        """Look at what must be known before the first turn; then watch."""
        await self.disk.look()
        self._rounds.start("disk", self.disk.look, _DISK_SECONDS, after_seconds=_DISK_SECONDS)
        self._rounds.start("workspace-sizes", self.sizes.look, _SIZES_SECONDS)
        self._rounds.start(
            "data-sizes", self.data_sizes.look, _DATA_SECONDS, after_seconds=_FIRST_DATA_SECONDS
        )
        self._rounds.start("instances", self.look_at_instances, _INSTANCES_SECONDS)
        self._rounds.start("unloading", self.unloading.look, _UNLOAD_SECONDS, after_seconds=_UNLOAD_SECONDS)
        self._rounds.start("approvals", self.holds.look, _APPROVALS_SECONDS)
        self._rounds.start(
            "retention", self.retention.look, _RETENTION_SECONDS, after_seconds=_FIRST_RETENTION_SECONDS
        )

    async def aclose(self) -> None:
        """End every watch."""
        await self._rounds.aclose()

    async def look_at_instances(self) -> None:
        """One look at all processes: what they take, turns that hang, who does not answer, who is worn."""
        await self.consumption.look()
        self.stalls.look(self.consumption.trees)
        self.vitals.look(self.consumption.trees)

    def checks(self) -> dict[str, dict[str, Any]]:
        """What the health page tells of the watches."""
        return {"disk": self.disk.check(), "data": self.data_sizes.check(), "turns": self.stalls.check()}

    def _refusal(self, user_id: UserId, quota: Quota) -> Refused | None:
        if (trouble := self.disk.refusal()) is not None:
            return trouble
        usage = Usage(
            workspace_bytes=self.sizes.size_of(user_id),
            cpu_seconds_last_hour=self.consumption.cpu_seconds(user_id),
            output_bytes_last_day=self.consumption.output_bytes(user_id),
        )
        refusal = check_usage(usage, quota)
        if refusal is not None:
            self.sizes.look_soon(user_id)
        return refusal
