"""The launcher of this machine: a keeper, started when none runs, and a sandbox for each instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import KeeperUnavailable, PoolError
from pool.keeper.client import ConnectionLost, KeeperClient, KeeperError
from pool.keeper.code_version import code_version
from pool.keeper.server import SOCKET_NAME
from pool.keeper.starter import HeldKeeper, KeeperProcess
from pool.launch.base import InstanceHandle, InstanceListing, InstanceSink, Launcher, LaunchSpec, StopGraces
from pool.launch.local_handle import (
    Feed,
    LocalHandle,
    check_takes_rights,
    graces_of,
    launch_failed,
    listing_of,
    pool_error,
)
from pool.launch.local_host import LocalHost
from pool.launch.process_table import ProcessReport
from pool.launch.tool_limits import IN_SANDBOX, ToolLimits, ToolPrograms, check_prefix
from pool.model import InstanceId

_OPEN_ATTEMPTS = 5
_HELLO_SECONDS = 30.0
_ABANDON_SECONDS = 5.0
_LEAVE_SECONDS = 15.0
_UPGRADE_SECONDS = 90.0
# of the keeper's protocol
_UPGRADES_SINCE = 2

_NO_KEEPER = "the keeper is not attached: open the launcher first"


class LocalLauncher(Launcher):
    """See ``Launcher``. The constructor tries the isolation out; ``open`` does the rest.

    ``host`` does what needs the service's own rights, by itself unless given.
    Raises ``IsolationUnavailable``. Of ``environment`` (the process's own unless
    given) the keeper gets what any program needs, the gateway the proxies too,
    and a CLI without a sandbox PATH.
    """

    def __init__(
        self,
        config: PoolConfig,
        environment: Mapping[str, str] | None = None,
        *,
        templates_want_outbound: bool = False,
        host: LocalHost | None = None,
    ) -> None:
        self._config = config
        self._host = host or LocalHost(config, environment, templates_want_outbound=templates_want_outbound)
        self._isolation = self._host.isolation
        self._gateway_user = self._host.gateway_user
        self._tool_programs = ToolPrograms(config.data_dir)
        self._runtime_dir = Path()
        self._client: KeeperClient | None = None
        self._keeper: HeldKeeper | None = None
        self._epoch: int | None = None
        self._fenced_by: int | None = None
        self._lost_callbacks: list[Callable[[], None]] = []
        self._opening = asyncio.Lock()

    async def open(self, epoch: int) -> int:
        """See ``Launcher``; starts a keeper when none runs. Again after a loss: a new keeper."""
        async with self._opening:
            if self._client is not None and self._epoch is not None:
                if epoch > self._epoch:
                    self._epoch = await self._raise_epoch(self._client, epoch)
                return self._epoch
            if self._fenced_by is not None:
                raise KeeperUnavailable(f"another server took over with epoch {self._fenced_by}")
            self._runtime_dir = await asyncio.to_thread(self._host.prepare)
            client = await self._connect(max(epoch, self._epoch or 0))
            if self._keeper is not None:
                self._keeper.close()
            assert client.hello is not None
            self._client = client
            self._keeper = self._hold(client.hello.pid)
            self._epoch = client.hello.epoch
            await self._gateway_user.settle(client)
            return self._epoch

    async def list(self) -> Sequence[InstanceListing]:
        """See ``Launcher``."""
        answer = await self._request("list")
        return [listing_of(facts) for facts in answer["instances"]]

    async def start(self, spec: LaunchSpec, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        client = self._attached()
        # It looks at the user's disk, which may not answer.
        request = await asyncio.to_thread(self._host.request, spec, self._runtime_dir)
        if spec.uid is not None:
            await asyncio.to_thread(check_takes_rights, client)
        feed = Feed(sink)
        try:
            attached = await client.start(request, feed)
        except asyncio.CancelledError:
            feed.is_muted = True
            # The request leaves at once. Whoever must know more asks again.
            with suppress(PoolError, TimeoutError):
                async with asyncio.timeout(_ABANDON_SECONDS):
                    await self.abandon(spec.instance_id)
            raise
        except ConnectionLost as error:
            raise KeeperUnavailable(str(error)) from error
        except KeeperError as error:
            raise launch_failed(error) from error
        return LocalHandle(client, spec.instance_id, attached.handle, attached.facts, feed)

    async def abandon(self, instance_id: InstanceId) -> bool:
        """See ``Launcher``."""
        answer = await self._request("abandon", instance=instance_id)
        return bool(answer.get("gone", True))

    async def attach(self, instance_id: InstanceId, offset: int, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        feed = Feed(sink)
        client = self._attached()
        try:
            attached = await client.attach(instance_id, offset, feed)
        except asyncio.CancelledError:
            feed.is_muted = True
            raise
        except KeeperError as error:
            raise pool_error(error) from error
        return LocalHandle(client, instance_id, attached.handle, attached.facts, feed)

    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        """See ``Launcher``."""
        try:
            return await self._attached().read(instance_id, offset, limit)
        except KeeperError as error:
            raise pool_error(error) from error

    async def forget(self, instance_id: InstanceId) -> None:
        """See ``Launcher``. Raises ``Conflict`` for one that has not exited."""
        await self._request("forget", instance=instance_id)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Launcher``."""
        self._lost_callbacks.append(callback)

    def supervisor_pids(self) -> set[int]:
        """See ``Launcher``: the keeper's, while attached."""
        return set() if self._keeper is None or self._client is None else {self._keeper.pid}

    async def aclose(self, *, end_instances: bool) -> None:
        """See ``Launcher``; with ``end_instances`` returns when keeper and gateway are really gone."""
        client, self._client = self._client, None
        keeper, self._keeper = self._keeper, None
        try:
            if client is not None and keeper is not None and end_instances:
                await self._end_keeper(client, keeper)
        finally:
            if client is not None:
                client.close()
                await client.wait_closed()
            if keeper is not None:
                keeper.close()

    async def upgrade(self, *, force: bool) -> Mapping[str, str]:
        """See ``Launcher``."""
        client = self._attached()
        if client.hello is None or client.hello.version < _UPGRADES_SINCE:
            return {"keeper": "too_old"}
        installed = await asyncio.to_thread(self._installed_code)
        done = {"keeper": "unchanged", "gateway": "none"}
        try:
            async with asyncio.timeout(_UPGRADE_SECONDS):
                if force or client.hello.code != installed:
                    await client.upgrade(
                        lease_seconds=self._config.orphan_lease_seconds,
                        spool_max_bytes=self._config.spool_max_bytes,
                        segment_bytes=self._config.spool_segment_bytes,
                    )
                    done["keeper"] = "upgraded"
                await client.request("replace_gateway", **self._gateway_user.of_request())
                done["gateway"] = "replaced"
        except TimeoutError:
            raise KeeperUnavailable("the keeper did not go over to the installed code in time") from None
        except KeeperError as error:
            if error.code != "no_gateway":
                raise pool_error(error) from error
        return done

    def uid_range(self) -> tuple[int, int] | None:
        """See ``Launcher``."""
        return self._config.uid_range if self._isolation.has_uids else None

    def tool_prefix(self, limits: ToolLimits) -> str:
        """See ``Launcher``."""
        if self._isolation.mode == "bwrap":
            return IN_SANDBOX
        return check_prefix(str(self._tool_programs.path(limits)))

    def remove_leftovers(self, known: Collection[str], changed_before: float) -> int:
        """See ``Launcher``."""
        return self._host.remove_leftovers(known, changed_before)

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """See ``Launcher``."""
        return self._host.process_report(pids, known, keepers)

    def gateway_user(self) -> tuple[int | None, str | None]:
        """See ``Launcher``."""
        return self._gateway_user.describe()

    def describe_isolation(self) -> tuple[str, str, Sequence[str]]:
        """See ``Launcher``."""
        return self._isolation.mode, self._isolation.network, self._isolation.remedies

    async def _connect(self, epoch: int) -> KeeperClient:
        problem = "it does not listen"
        for _ in range(_OPEN_ATTEMPTS):
            try:
                async with asyncio.timeout(_HELLO_SECONDS):
                    return await self._dial(epoch)
            except TimeoutError:
                # Another one would find the data directory locked, and what this one holds may well run.
                text = f"the keeper that listens does not answer within {_HELLO_SECONDS:g} s"
                raise KeeperUnavailable(text) from None
            except (OSError, ConnectionLost) as error:
                problem = str(error)
                await asyncio.to_thread(self._host.start_keeper, self._runtime_dir)
            except KeeperError as error:
                # only a server that was never attached may pass by an epoch that it has not heard of
                if error.code != "stale_epoch" or self._epoch is not None:
                    raise KeeperUnavailable(str(error), details={"code": error.code}) from error
                epoch = int(error.details["epoch"]) + 1
        raise KeeperUnavailable(f"the keeper cannot be reached: {problem}")

    async def _dial(self, epoch: int) -> KeeperClient:
        return await KeeperClient.connect(self._runtime_dir / SOCKET_NAME, epoch, self._lost)

    def _hold(self, pid: int) -> HeldKeeper:
        return KeeperProcess(pid)

    def _installed_code(self) -> str:
        return code_version()

    async def _raise_epoch(self, client: KeeperClient, epoch: int) -> int:
        try:
            return await client.raise_epoch(epoch)
        except KeeperError as error:
            raise pool_error(error) from error

    def _lost(self, fenced_by: int | None) -> None:
        self._client = None
        self._fenced_by = fenced_by
        for callback in self._lost_callbacks:
            callback()

    def _attached(self) -> KeeperClient:
        if self._client is None:
            raise KeeperUnavailable(_NO_KEEPER)
        return self._client

    async def _request(self, op: str, **fields: Any) -> dict[str, Any]:
        try:
            return await self._attached().request(op, **fields)
        except KeeperError as error:
            raise pool_error(error) from error

    async def _end_keeper(self, client: KeeperClient, keeper: HeldKeeper) -> None:
        graces = StopGraces(term=self._config.stop_grace_seconds)
        client.expect_end()
        with suppress(ConnectionLost):
            await client.request("shutdown", graces=graces_of(graces))
        if not await keeper.wait(sum(graces_of(graces)) + _LEAVE_SECONDS):
            await asyncio.to_thread(keeper.kill, self._host.kill_keeper)
            await keeper.wait(_LEAVE_SECONDS)
