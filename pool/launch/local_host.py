"""What the launcher of this machine needs the service's own rights for: trials, files, a keeper's start.

It is apart from the launcher because a server that is not root asks its
steward for the same. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import BadRequest, KeeperUnavailable
from pool.keeper.egress import AllowList
from pool.keeper.program import noted_runtime_dir
from pool.keeper.starter import KeeperCommand, KeeperNotStarted, run_keeper
from pool.launch.base import LaunchSpec
from pool.launch.gateway_user import GatewayUser
from pool.launch.isolation import Isolation, resolve
from pool.launch.leftovers import remove_leftovers
from pool.launch.local_request import LocalRequests
from pool.launch.process_table import ProcessReport, report
from pool.launch.runtime_dir import make_runtime_dir, runtime_dir_for
from pool.launch.uids import find_uids


class LocalHost:
    """The constructor tries the isolation out, for ``config`` and what any program needs of ``environment``.

    ``isolation`` is what was found, ``gateway_user`` whom the gateway can be.
    Raises ``IsolationUnavailable``, and ``BadRequest`` for names of hosts that are none.
    """

    isolation: Isolation
    gateway_user: GatewayUser
    service_uid: int | None = None
    """Whom the server runs as where that is not who started it."""

    def __init__(
        self,
        config: PoolConfig,
        environment: Mapping[str, str] | None = None,
        *,
        templates_want_outbound: bool = False,
        believes_keeper: bool = False,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._config = config
        _check_names(config.egress_allow)
        self._wanted_runtime_dir = runtime_dir_for(config.data_dir, config.runtime_dir, self._environment)
        self.isolation = resolve(
            config.isolation_mode,
            config.isolation_network,
            to_named_hosts=bool(config.egress_allow),
            uids=find_uids(config, self._wanted_runtime_dir),
            is_wanted=templates_want_outbound,
        )
        self._requests = LocalRequests(config, self.isolation, self._environment)
        self.gateway_user = GatewayUser(
            config, self._environment, has_uids=self.isolation.has_uids, believes_keeper=believes_keeper
        )

    def prepare(self) -> Path:
        """Write what sandboxes get of ours and make the runtime directory, which is returned.

        It is that of a keeper that runs, whose server may have had another environment.
        Raises ``KeeperUnavailable``, ``OSError``.
        """
        runtime_dir = noted_runtime_dir(self._config.data_dir) or self._wanted_runtime_dir
        make_runtime_dir(runtime_dir, passable=self.isolation.has_uids)
        self._requests.write_files()
        return runtime_dir

    def request(self, spec: LaunchSpec, runtime_dir: Path) -> dict[str, Any]:
        """The request for ``spec`` to the keeper of ``runtime_dir``. Raises ``LaunchFailed``."""
        return self._requests.start(spec, runtime_dir)

    def start_keeper(self, runtime_dir: Path) -> None:
        """Start a keeper; returns when it listens. Raises ``KeeperUnavailable``."""
        try:
            run_keeper(self.keeper_command(runtime_dir), self._environment)
        except KeeperNotStarted as error:
            raise KeeperUnavailable(f"the keeper did not start: {error}") from error

    def keeper_command(self, runtime_dir: Path) -> KeeperCommand:
        """How a keeper is started."""
        config = self._config
        return KeeperCommand(
            program=config.keeper_command,
            data_dir=config.data_dir,
            runtime_dir=runtime_dir,
            lease_seconds=config.orphan_lease_seconds,
            spool_max_bytes=config.spool_max_bytes,
            segment_bytes=config.spool_segment_bytes,
            gateway=config.gateway_command or None,
            cgroup=config.cgroup,
            gateway_uid=self.gateway_user.uid,
            gateway_shown=self.gateway_user.shown,
            service_uid=self.service_uid,
            uid_range=None if self.service_uid is None else config.uid_range,
        )

    def kill_keeper(self, pidfd: int) -> None:
        """Send KILL to the keeper that is open as ``pidfd``; all its instances end with it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def remove_leftovers(self, known: Collection[str], changed_before: float) -> int:
        """See ``pool.launch.leftovers.remove_leftovers``."""
        return remove_leftovers(self._config.data_dir, known, changed_before)

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """See ``pool.launch.process_table.report``."""
        return report(self._config.data_dir, pids, known, keepers)


def _check_names(egress_allow: Sequence[str]) -> None:
    try:
        AllowList.of(egress_allow)
    except ValueError as error:
        raise BadRequest(f"bad pool configuration: egress_allow: {error}") from error
