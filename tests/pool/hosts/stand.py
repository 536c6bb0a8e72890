"""What the stories of hosts over SSH share: one host, and a CLI there that is spoken with."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig, SshHost
from pool.errors import KeeperUnavailable
from pool.hosts.base import PoolHost
from pool.hosts.ssh import SshLauncher, open_ssh_host
from pool.hosts.trust import LinkTimes
from pool.keeper.procfs import SITE_MARKER, site_of
from pool.keeper.program import noted_runtime_dir
from pool.launch.base import InstanceHandle, LaunchSpec, StopGraces
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.workspace.workspaces import WorkspacePaths
from tests.pool.launch.rig import Sink
from tests.procfs import marked_processes
from tests.waiting import eventually

QUICK = LinkTimes(keepalive_seconds=0.5, keepalive_misses=2, speaks_every_seconds=1.0)
STOP = StopGraces(end_of_input=2, term=1, kill=5)
_ARGS = (
    "--print",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose",
    "--include-partial-messages",
)


class Stand:
    """One host over a link that a test can trouble, and a sink for each attachment."""

    def __init__(self, host: PoolHost, data: Path) -> None:
        self.data = data
        self.host = host
        assert isinstance(host.launcher, SshLauncher)
        self.launcher = host.launcher
        self.lost = 0
        self.launcher.on_lost(self._count)

    @classmethod
    def at(cls, host: SshHost, settings: dict[str, Any], times: LinkTimes = QUICK) -> Stand:
        """Behind a door; the server has a data directory of its own, in which nothing of the host is."""
        data = Path(settings["data_dir"])
        config = PoolConfig(data_dir=data.parent / "server", gateway_command=())
        return cls(open_ssh_host(host, config, times), data)

    async def start(self, instance: str) -> tuple[InstanceHandle, Sink]:
        paths = await asyncio.to_thread(self.host.files.ensure, "alice")
        sink = Sink()
        return await self.launcher.start(spec_of(instance, paths), sink), sink

    def processes(self, instance: str) -> list[int]:
        """The pids of its living processes; other tests use the same ids elsewhere."""
        site = site_of(self.data)
        return sorted(p.pid for p in marked_processes(instance) if p.environ.get(SITE_MARKER) == site)

    async def is_lost(self, times: int) -> None:
        await eventually(lambda: self.lost == times, 30, what="the loss is told")
        with pytest.raises(KeeperUnavailable):
            await self.launcher.list()
        with pytest.raises(KeeperUnavailable):
            await asyncio.to_thread(self.host.files.homes)

    def _count(self) -> None:
        self.lost += 1


def spec_of(instance: str, paths: WorkspacePaths) -> LaunchSpec:
    """A CLI of alice's."""
    return LaunchSpec(
        instance_id=InstanceId(instance),
        key=SessionKey(UserId("alice"), SessionId("default")),
        cli_args=(*_ARGS, f"--session-id={uuid.uuid4()}"),
        workspace=paths.workspace,
        home=paths.home,
    )


async def say(handle: InstanceHandle, text: str) -> None:
    message = {"type": "user", "uuid": str(uuid.uuid4()), "message": {"role": "user", "content": text}}
    await handle.write(json.dumps(message).encode())


def results(sink: Sink) -> list[Any]:
    frames = [json.loads(line) for line in bytes(sink.data).split(b"\n")[:-1]]
    return [frame["result"] for frame in frames if frame["type"] == "result"]


async def some_results(sink: Sink) -> None:
    await eventually(lambda: results(sink), 30)


async def more_than(sink: Sink, size: int) -> None:
    await eventually(lambda: len(sink.data) > size, 30)


async def more_results(sink: Sink, number: int) -> None:
    await eventually(lambda: len(results(sink)) > number, 30)


def deltas(sink: Sink) -> list[str]:
    found = []
    for line in bytes(sink.data).split(b"\n")[:-1]:
        frame = json.loads(line)
        if frame["type"] == "stream_event" and frame["event"]["type"] == "content_block_delta":
            found.append(frame["event"]["delta"]["text"])
    return found


def keeper_listens(data_dir: Path) -> bool:
    return noted_runtime_dir(data_dir) is not None
