"""Files and keeper of another machine as the server has them, by what its host program does and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from pool.config import PoolConfig
from pool.hosts.conversation import HostClient
from pool.hosts.facts import HostFacts
from pool.hosts.link import Link
from pool.hosts.trust import LinkTimes
from pool.keeper.client import KeeperClient
from pool.keeper.starter import HeldKeeper
from pool.launch.gateway_user import FoundGatewayUser
from pool.launch.local import LocalLauncher
from pool.launch.process_table import ProcessReport
from pool.steward.remote import RemoteFiles, RemoteHost, remote_paths
from pool.workspace.workspaces import WorkspacePaths, paths_below


class OtherFiles(RemoteFiles):
    """See ``HostFiles``: of a machine whose directories this one does not have. Templates are read here."""

    def __init__(self, client: HostClient, config: PoolConfig, facts: Callable[[], HostFacts]) -> None:
        super().__init__(client, config.data_dir, config.templates_dir)
        self._facts = facts

    def paths(self, user_id: str) -> WorkspacePaths:
        """See ``Workspaces``. That nobody's name differs only in case is seen to by ``ensure``."""
        return self.unchecked_paths(user_id)

    def unchecked_paths(self, user_id: str) -> WorkspacePaths:
        """See ``Workspaces``."""
        return remote_paths(paths_below(self._facts().data_dir, user_id), self._steward)

    def scratch(self, name: str) -> Path:
        """See ``HostFiles``."""
        return self._facts().data_dir / "trials" / name


class OtherHost(RemoteHost):
    """See ``LocalHost``: of another machine, which told what it had tried out."""

    def __init__(self, client: HostClient, facts: HostFacts) -> None:
        self._steward = client
        self._trials = facts.data_dir / "trials"
        self.isolation = facts.isolation
        self.gateway_user = FoundGatewayUser(
            facts.gateway_uid, facts.gateway_obstacle, facts.gateway_shown, service_uid=facts.keeper_uid
        )


class OtherKeeper:
    """See ``HeldKeeper``: its host tells when it has gone."""

    def __init__(self, pid: int, client: HostClient) -> None:
        self.pid = pid
        self._client = client

    async def wait(self, seconds: float) -> bool:
        """See ``HeldKeeper``."""
        return bool(await asyncio.to_thread(self._client.call, "keeper_has_ended", seconds=seconds))

    def kill(self, send: Callable[[int], None]) -> None:
        """See ``HeldKeeper``; the host finds it by its lock."""
        send(-1)

    def close(self) -> None:
        """See ``HeldKeeper``."""


class LinkedLauncher(LocalLauncher):
    """The launcher over one open link: the keeper is spoken with over a channel of it.

    ``known_epoch`` is that with which this server was attached before, over another link.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        link: Link,
        client: HostClient,
        facts: HostFacts,
        times: LinkTimes,
        known_epoch: int | None,
    ) -> None:
        super().__init__(config, host=OtherHost(client, facts))
        self._link = link
        self._steward = client
        self._facts = facts
        self._times = times
        self._epoch = known_epoch

    @property
    def is_attached(self) -> bool:
        """Is the keeper spoken with?"""
        return self._client is not None

    @property
    def fenced_by(self) -> int | None:
        """The epoch of the server that took over, if one did."""
        return self._fenced_by

    def supervisor_pids(self) -> set[int]:
        """See ``Launcher``: none on this machine."""
        return set()

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """See ``Launcher``: below the keeper there."""
        own = set() if self._keeper is None else {self._keeper.pid}
        return super().process_report(pids, known, own)

    async def _dial(self, epoch: int) -> KeeperClient:
        channel = await self._link.run("keeper")
        every = self._times.speaks_every_seconds
        return await KeeperClient.connect(channel.socket, epoch, self._lost, speaks_every=every)

    def _hold(self, pid: int) -> HeldKeeper:
        return OtherKeeper(pid, self._steward)

    def _installed_code(self) -> str:
        return self._facts.keeper_code
