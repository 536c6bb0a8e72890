"""A machine over SSH as a host of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pool.config import PoolConfig, SshHost
from pool.errors import HostRefused, KeeperUnavailable, PoolError
from pool.hosts import wire
from pool.hosts.base import PoolHost
from pool.hosts.conversation import Conversation, HostClient
from pool.hosts.facts import HostFacts, installed_version
from pool.hosts.link import Channel, Link
from pool.hosts.remote import LinkedLauncher, OtherFiles
from pool.hosts.trust import LinkTimes
from pool.launch.base import InstanceHandle, InstanceListing, InstanceSink, Launcher, LaunchSpec
from pool.launch.process_table import ProcessReport
from pool.launch.tool_limits import ToolLimits
from pool.model import InstanceId

# half of what a database has a number for
_EPOCHS = 2**62


def open_ssh_host(settings: SshHost, config: PoolConfig, times: LinkTimes | None = None) -> PoolHost:
    """The host; nothing is connected before ``launcher.open``."""
    client = HostClient(settings.name)
    launcher = SshLauncher(settings, config, client, times or LinkTimes())
    return PoolHost(
        name=settings.name,
        launcher=launcher,
        files=OtherFiles(client, config, launcher.facts),
        capacity=settings.capacity,
        labels=settings.labels,
        client=client,
    )


class SshLauncher(Launcher):
    """See ``Launcher``. Every ``open`` after a loss is a new link; the keeper is the one that was there."""

    def __init__(self, settings: SshHost, config: PoolConfig, client: HostClient, times: LinkTimes) -> None:
        self._settings = settings
        self._config = config
        self._client = client
        self._times = times
        self._link: Link | None = None
        self._attached: LinkedLauncher | None = None
        self._facts: HostFacts | None = None
        self._epoch: int | None = None
        self._fenced_by: int | None = None
        self._lost_callbacks: list[Callable[[], None]] = []
        self._opening = asyncio.Lock()

    def facts(self) -> HostFacts:
        """What the host told of itself. Raises ``KeeperUnavailable`` while it is not connected."""
        if self._attached is None or self._facts is None:
            raise self._not_connected()
        return self._facts

    async def open(self, epoch: int) -> int:
        """See ``Launcher``. Raises ``HostRefused`` where trying again does not help."""
        async with self._opening:
            if self._attached is not None:
                with self._believing_nothing():
                    self._epoch = _checked(await self._attached.open(epoch))
                    return self._epoch
            if self._fenced_by is not None:
                raise KeeperUnavailable(f"another server took over with epoch {self._fenced_by}")
            link = await Link.connect(self._settings, self._times)
            try:
                with self._believing_nothing():
                    return await self._begin(link, max(epoch, self._epoch or 0))
            except BaseException:
                self._let_go()
                await link.close()
                raise

    async def list(self) -> Sequence[InstanceListing]:
        """See ``Launcher``."""
        with self._believing_nothing():
            return await self._current().list()

    async def start(self, spec: LaunchSpec, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        with self._believing_nothing():
            return await self._current().start(spec, sink)

    async def abandon(self, instance_id: InstanceId) -> bool:
        """See ``Launcher``."""
        with self._believing_nothing():
            return await self._current().abandon(instance_id)

    async def attach(self, instance_id: InstanceId, offset: int, sink: InstanceSink) -> InstanceHandle:
        """See ``Launcher``."""
        with self._believing_nothing():
            return await self._current().attach(instance_id, offset, sink)

    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        """See ``Launcher``."""
        with self._believing_nothing():
            return await self._current().read_spool(instance_id, offset, limit)

    async def forget(self, instance_id: InstanceId) -> None:
        """See ``Launcher``."""
        with self._believing_nothing():
            await self._current().forget(instance_id)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """See ``Launcher``."""
        self._lost_callbacks.append(callback)

    async def upgrade(self, *, force: bool) -> Mapping[str, str]:
        """See ``Launcher``: to the code that is installed there."""
        with self._believing_nothing():
            return await self._current().upgrade(force=force)

    async def aclose(self, *, end_instances: bool) -> None:
        """See ``Launcher``. Of a host that is not connected nothing is ended: its lease does that."""
        async with self._opening:
            attached, link = self._attached, self._link
            try:
                if attached is not None:
                    await attached.aclose(end_instances=end_instances)
            finally:
                self._let_go()
                if link is not None:
                    await link.close()

    def supervisor_pids(self) -> set[int]:
        """See ``Launcher``: none on this machine."""
        return set()

    def describe_isolation(self) -> tuple[str, str, Sequence[str]]:
        """See ``Launcher``."""
        return self._current().describe_isolation()

    def carries(self) -> int | None:
        """See ``Launcher``."""
        return None if self._facts is None else self._facts.capacity

    def uid_range(self) -> tuple[int, int] | None:
        """See ``Launcher``."""
        return self.facts().uid_range

    def tool_prefix(self, limits: ToolLimits) -> str | None:
        """See ``Launcher``."""
        return self._current().tool_prefix(limits)

    def remove_leftovers(self, known: Collection[str], changed_before: float) -> int:
        """See ``Launcher``."""
        return self._current().remove_leftovers(known, changed_before)

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        """See ``Launcher``: the host looks at its own."""
        return self._current().process_report(pids, known, keepers)

    def gateway_user(self) -> tuple[int | None, str | None]:
        """See ``Launcher``."""
        return self._current().gateway_user()

    async def _begin(self, link: Link, epoch: int) -> int:
        self._link = link
        channel = await link.run("files")
        conversation = await Conversation.open(self._settings.name, channel.socket, self._drop_link)
        self._client.conversation = conversation
        facts = await self._hello(link, conversation, channel, epoch)
        conversation.speak(self._times.speaks_every_seconds / 2)
        await self._client.greet(self._times.hello_seconds)
        attached = LinkedLauncher(
            _config_there(self._config, facts),
            link=link,
            client=self._client,
            facts=facts,
            times=self._times,
            known_epoch=self._epoch,
        )
        try:
            async with asyncio.timeout(self._times.attach_seconds):
                in_force = _checked(await attached.open(epoch))
        except TimeoutError:
            text = f"its keeper was not reached within {self._times.attach_seconds:g} s"
            raise KeeperUnavailable(f"host {self._settings.name}: {text}") from None
        # from here on a loss is told, not raised
        if not attached.is_attached or conversation.is_lost:
            raise KeeperUnavailable(f"host {self._settings.name}: the link was lost at once")
        attached.on_lost(self._lost)
        self._facts, self._attached, self._epoch = facts, attached, in_force
        return in_force

    async def _hello(self, link: Link, conversation: Conversation, channel: Channel, epoch: int) -> HostFacts:
        name = self._settings.name
        try:
            async with asyncio.timeout(self._times.hello_seconds):
                facts = await conversation.ask(
                    "hello",
                    version=installed_version(),
                    protocol=wire.PROTOCOL,
                    speaks_every_seconds=self._times.speaks_every_seconds,
                    epoch=epoch,
                    was_attached=self._epoch is not None,
                )
        except TimeoutError:
            text = f"the host program says nothing within {self._times.hello_seconds:g} s"
            raise KeeperUnavailable(f"host {name}: {text}") from None
        except KeeperUnavailable as error:
            if not link.is_open:
                raise
            raise HostRefused(
                f"host {name}: {self._settings.command!r} does not answer there, {await channel.why_ended()}",
                details={"host": name, "reason": "program"},
            ) from error
        except PoolError as error:
            reason = {"host": name, "reason": "program", "code": error.code}
            raise HostRefused(f"host {name}: {error.message}", details=reason) from error
        assert isinstance(facts, HostFacts)
        if facts.version != installed_version():
            raise HostRefused(
                f"host {name} has Claude Pool {facts.version}, this server {installed_version()}: "
                "install the same version on both",
                details={"host": name, "reason": "program"},
            )
        return facts

    @contextmanager
    def _believing_nothing(self) -> Iterator[None]:
        """The keeper there may be anything that a taken-over host put in its place."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            name = self._settings.name
            raise KeeperUnavailable(
                f"host {name}: its keeper answers what is none: {type(error).__name__}: {error}",
                details={"host": name},
            ) from error

    def _drop_link(self) -> None:
        # before it is attached that is raised; later the keeper's channel ends with the link, and tells
        if self._link is not None and self._attached is not None:
            self._link.abort()

    def _lost(self) -> None:
        attached, link = self._attached, self._link
        if attached is not None:
            self._fenced_by = attached.fenced_by
        self._let_go()
        if link is not None:
            link.abort()
        for callback in self._lost_callbacks:
            callback()

    def _let_go(self) -> None:
        self._attached = None
        self._link = None
        conversation, self._client.conversation = self._client.conversation, None
        if conversation is not None:
            conversation.close()

    def _current(self) -> LinkedLauncher:
        if self._attached is None:
            raise self._not_connected()
        return self._attached

    def _not_connected(self) -> KeeperUnavailable:
        name = self._settings.name
        return KeeperUnavailable(f"host {name} is not connected", details={"host": name})


def _checked(epoch: object) -> int:
    """An epoch that leaves room for those after it. Raises ``ValueError``."""
    if type(epoch) is not int or not 0 <= epoch < _EPOCHS:
        raise ValueError(f"not an epoch: {epoch!r:.40}")
    return epoch


def _config_there(config: PoolConfig, facts: HostFacts) -> PoolConfig:
    """The configuration, with what the host decides for itself."""
    return replace(
        config,
        data_dir=facts.data_dir,
        runtime_dir=None,
        uid_range=facts.uid_range or config.uid_range,
        orphan_lease_seconds=facts.orphan_lease_seconds,
        spool_max_bytes=facts.spool_max_bytes,
        spool_segment_bytes=facts.spool_segment_bytes,
    )
