"""A host in memory for a pool's runtime: it outlives the pools, fails on request, loses its keeper.

``FakeHost`` holds the CLIs; ``FakeLauncher`` is one pool's connection to it.
A pool that is dropped (a crashed server) leaves the host as it is, and the
next launcher takes over: the one before hears nothing any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from pool.errors import InstanceGone, KeeperUnavailable
from pool.launch.base import (
    InstanceHandle,
    InstanceListing,
    InstanceSink,
    Launcher,
    LaunchSpec,
    ProcessIdentity,
    StopGraces,
)
from pool.model import InstanceId
from tests.fakes.fake_cli import FakeCli


class FakeHost:
    """The machine: CLIs, faults, and who is attached."""

    def __init__(self) -> None:
        self.clis: dict[InstanceId, FakeCli] = {}
        self.calls: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}
        self.prepare: Callable[[FakeCli], None] = lambda _cli: None
        self.attached: FakeLauncher | None = None
        self.epoch = 0
        self.losses = 0
        self.is_cut = False
        self.stop_seconds = 0.0
        self.uids: tuple[int, int] | None = None
        self.gateway: tuple[int | None, str | None] = (None, None)
        self._faults: defaultdict[str, dict[int, Exception]] = defaultdict(dict)

    def launcher(self) -> FakeLauncher:
        """A connection for one pool."""
        return FakeLauncher(self)

    @property
    def living(self) -> list[FakeCli]:
        return [cli for cli in self.clis.values() if cli.is_alive]

    def cli(self, session: str = "default") -> FakeCli:
        """The newest living CLI of a session."""
        return [cli for cli in self.living if cli.spec.key.session_id == session][-1]

    def fail(self, call: str, error: Exception, *, on: int | None = None) -> None:
        """The n-th ``call`` from now on (the next one) raises ``error``."""
        self._faults[call][self.calls[call] + (on or 1)] = error

    def hold(self, call: str) -> asyncio.Event:
        """Every ``call`` waits until the event is set."""
        self.gates[call] = asyncio.Event()
        return self.gates[call]

    async def passing(self, call: str) -> None:
        """Each call of a launcher or handle comes by here."""
        self.calls[call] += 1
        number = self.calls[call]
        await asyncio.sleep(0)
        gate = self.gates.get(call)
        if gate is not None:
            await gate.wait()
        error = self._faults[call].pop(number, None)
        if error is not None:
            raise error

    def lose_keeper(self) -> None:
        """The keeper is killed: every CLI dies with it, and whoever is attached hears of it."""
        self.losses += 1
        for cli in self.living:
            cli.follow(None)
            cli.die()
        self._tell_lost()

    def cut(self) -> None:
        """The way to the host is lost: the CLIs live on, and nobody reaches them before ``mend``."""
        self.is_cut = True
        for cli in self.clis.values():
            cli.follow(None)
        self._tell_lost()

    def mend(self) -> None:
        """The host can be reached again."""
        self.is_cut = False

    def _tell_lost(self) -> None:
        launcher, self.attached = self.attached, None
        sinks = list(launcher.sinks.values()) if launcher is not None else []
        for sink in sinks:
            sink.launcher_lost()
        if launcher is not None:
            launcher.sinks.clear()
            for callback in launcher.callbacks:
                callback()


class FakeHandle(InstanceHandle):
    """See ``InstanceHandle``."""

    def __init__(self, launcher: FakeLauncher, cli: FakeCli) -> None:
        self.instance_id = cli.id
        self.identity = ProcessIdentity(2**22 + 7, 1, "boot", cli.id)
        self.isolation = "none"
        self.commits: list[int] = []
        self._launcher = launcher
        self._cli = cli

    async def write(self, line: bytes, *, timeout_seconds: float = 30.0) -> None:
        await self._launcher.passing("write")
        if not self._cli.is_alive:
            raise InstanceGone("the process has exited")
        self._cli.receive(line)

    def committed(self, offset: int) -> None:
        self.commits.append(offset)

    def hold(self, is_held: bool) -> None:
        self._cli.hold(is_held)

    def trim(self, offset: int) -> None:
        self._cli.trimmed_to = offset

    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        return self._cli.read(offset, limit)

    async def stderr_tail(self) -> str:
        await self._launcher.passing("stderr")
        return ""

    async def stop(self, graces: StopGraces) -> None:
        await self._launcher.passing("stop")
        await asyncio.sleep(self._launcher.host.stop_seconds)
        if not self._cli.outlives_kill:
            self._cli.die(0)

    async def signal(self, name: str) -> None:
        self._cli.die(signal=name)


class FakeLauncher(Launcher):
    """See ``Launcher``."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.sinks: dict[InstanceId, InstanceSink] = {}
        self.handles: dict[InstanceId, FakeHandle] = {}
        self.callbacks: list[Callable[[], None]] = []

    async def passing(self, call: str) -> None:
        """Raise when another launcher took over or the keeper is gone."""
        await self.host.passing(call)
        if self.host.attached is not self:
            raise KeeperUnavailable("the keeper is not attached")

    def sever(self) -> None:
        """The server is dead: nothing reaches it any more."""
        if self.host.attached is self:
            self.host.attached = None
        self.sinks.clear()
        for cli in self.host.clis.values():
            cli.follow(None)

    async def open(self, epoch: int) -> int:
        await self.host.passing("open")
        if self.host.is_cut:
            raise KeeperUnavailable("the host cannot be reached")
        if self.host.attached not in (None, self):
            self.host.attached.sever()
        self.host.attached = self
        self.host.epoch = max(epoch, self.host.epoch)
        return self.host.epoch

    async def list(self) -> Sequence[InstanceListing]:
        await self.passing("list")
        return [
            InstanceListing(cli.id, None, len(cli.spool), cli.exit_status, None, labels=cli.spec.labels)
            for cli in self.host.clis.values()
        ]

    async def start(self, spec: LaunchSpec, sink: InstanceSink) -> InstanceHandle:
        await self.passing("start")
        cli = self.host.clis[spec.instance_id] = FakeCli(spec)
        self.host.prepare(cli)
        try:
            await self.passing("started")
        except BaseException:
            if self.host.attached is self and "abandon" not in self.host.gates:
                cli.die(signal="SIGKILL")
            raise
        return self._handle(cli, 0, sink)

    async def abandon(self, instance_id: InstanceId) -> bool:
        await self.passing("abandon")
        cli = self.host.clis.get(instance_id)
        if cli is not None and not cli.outlives_kill:
            cli.die(signal="SIGKILL")
        return cli is None or not cli.is_alive

    async def attach(self, instance_id: InstanceId, offset: int, sink: InstanceSink) -> InstanceHandle:
        await self.passing("attach")
        if instance_id not in self.host.clis:
            raise InstanceGone("no such instance")
        return self._handle(self.host.clis[instance_id], offset, sink)

    def _handle(self, cli: FakeCli, offset: int, sink: InstanceSink) -> FakeHandle:
        self.sinks[cli.id] = sink
        cli.follow(sink, offset)
        handle = self.handles[cli.id] = FakeHandle(self, cli)
        return handle

    async def read_spool(self, instance_id: InstanceId, offset: int, limit: int) -> tuple[int, bytes]:
        await self.passing("read_spool")
        if instance_id not in self.host.clis:
            raise InstanceGone("no such instance")
        return self.host.clis[instance_id].read(offset, limit)

    async def forget(self, instance_id: InstanceId) -> None:
        await self.passing("forget")
        self.host.clis.pop(instance_id, None)

    def on_lost(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    async def aclose(self, *, end_instances: bool) -> None:
        if end_instances and self.host.attached is self:
            for cli in self.host.living:
                cli.die(signal="SIGKILL")
        self.sever()

    def supervisor_pids(self) -> set[int]:
        return set()

    def uid_range(self) -> tuple[int, int] | None:
        return self.host.uids

    def gateway_user(self) -> tuple[int | None, str | None]:
        return self.host.gateway

    def describe_isolation(self) -> tuple[str, str, Sequence[str]]:
        return "none", "open", ()
