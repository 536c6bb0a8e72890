"""Case 44: a machine over SSH whose link is cut, half open, or whose sshd starts anew."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.errors import KeeperUnavailable
from pool.hosts.base import PoolHost
from pool.hosts.link import LinkTimes
from pool.hosts.ssh import SshLauncher, open_ssh_host
from pool.keeper.program import noted_runtime_dir
from pool.launch.base import InstanceHandle, LaunchSpec, StopGraces
from pool.model import InstanceId, SessionId, SessionKey, UserId
from tests.pool.hosts.sshd import Proxy, Sshd
from tests.pool.launch.rig import Sink
from tests.procfs import marked_processes
from tests.waiting import eventually

QUICK = LinkTimes(keepalive_seconds=0.2, keepalive_misses=2, speaks_every_seconds=1.0)
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

    def __init__(self, sshd: Sshd, proxy: Proxy, settings: dict[str, Any], times: LinkTimes = QUICK) -> None:
        self.sshd = sshd
        self.proxy = proxy
        self.data = Path(settings["data_dir"])
        sshd.let_in(settings)
        # the server has a data directory of its own, in which nothing of the host is
        config = PoolConfig(data_dir=self.data.parent / "server", gateway_command=())
        self.host: PoolHost = open_ssh_host(sshd.host(proxy.port), config, times)
        assert isinstance(self.host.launcher, SshLauncher)
        self.launcher = self.host.launcher
        self.lost = 0
        self.launcher.on_lost(self._count)

    async def start(self, instance: str) -> tuple[InstanceHandle, Sink]:
        paths = await asyncio.to_thread(self.host.files.ensure, "alice")
        spec = LaunchSpec(
            instance_id=InstanceId(instance),
            key=SessionKey(UserId("alice"), SessionId("default")),
            cli_args=(*_ARGS, f"--session-id={uuid.uuid4()}"),
            workspace=paths.workspace,
            home=paths.home,
        )
        sink = Sink()
        return await self.launcher.start(spec, sink), sink

    def processes(self, instance: str) -> list[int]:
        return sorted(
            process.pid for process in marked_processes(instance) if str(self.data) in str(process.environ)
        )

    async def is_lost(self, times: int) -> None:
        await eventually(lambda: self.lost == times, 30, what="the loss is told")
        with pytest.raises(KeeperUnavailable):
            await self.launcher.list()
        with pytest.raises(KeeperUnavailable):
            await asyncio.to_thread(self.host.files.homes)

    def _count(self) -> None:
        self.lost += 1


@pytest.fixture
async def stand(own_sshd: Sshd, settings: dict[str, Any]) -> AsyncIterator[Stand]:
    async with Proxy(own_sshd.port) as proxy:
        made = Stand(own_sshd, proxy, settings)
        yield made
        await made.launcher.open(1)
        await made.launcher.aclose(end_instances=True)


async def say(handle: InstanceHandle, text: str) -> None:
    message = {"type": "user", "uuid": str(uuid.uuid4()), "message": {"role": "user", "content": text}}
    await handle.write(json.dumps(message).encode())


def results(sink: Sink) -> list[Any]:
    frames = [json.loads(line) for line in bytes(sink.data).split(b"\n")[:-1]]
    return [frame["result"] for frame in frames if frame["type"] == "result"]


async def test_turns_work_and_no_loss_of_the_link_costs_a_byte(stand: Stand) -> None:
    """Cut, half open and with a new sshd: the CLI lives on, and its output comes without gap or repeat."""
    assert await stand.launcher.open(1) == 1
    handle, sink = await stand.start("one")
    await say(handle, "good morning !huge 6000000")
    await eventually(lambda: results(sink), 30)
    assert len(sink.data) > 6_000_000
    processes = stand.processes("one")

    for number, trouble in enumerate((stand.proxy.cut, stand.proxy.swallow, stand.sshd.restart), start=1):
        await say(handle, "stream 150 10")
        before = len(sink.data)
        await more_than(sink, before + 1000)
        trouble()
        await stand.is_lost(number)
        assert sink.lost == number
        with pytest.raises(KeeperUnavailable):
            await say(handle, "nobody hears it")
        assert stand.processes("one") == processes

        assert await stand.launcher.open(1) == 1
        assert [one.exit_status for one in await stand.launcher.list()] == [None]
        # the sink minds the offsets
        handle = await stand.launcher.attach(InstanceId("one"), len(sink.data), sink)
        await more_results(sink, number)
        assert "".join(deltas(sink)[-150:]) == " ".join(f"w{each}" for each in range(150))

    assert results(sink)[0] == "echo: good morning"
    await handle.stop(STOP)
    assert (await sink.exit()).code == 0
    assert stand.processes("one") == []


async def test_a_half_open_link_keeps_nothing_alive_when_the_server_stays_away(
    sshd: Sshd, settings: dict[str, Any]
) -> None:
    times = replace(QUICK, speaks_every_seconds=0.4)
    async with Proxy(sshd.port) as proxy:
        stand = Stand(sshd, proxy, settings | {"orphan_lease_seconds": 1.0}, times)
        await stand.launcher.open(1)
        handle, sink = await stand.start("one")
        await say(handle, "good night !setsid !double-fork")
        await eventually(lambda: results(sink), 30)
        pids = stand.processes("one")
        assert len(pids) >= 3
        # for longer than the lease: as long as the link stands it is renewed
        await asyncio.sleep(1.5)
        assert stand.processes("one") == pids

        before = sshd.connections()
        assert before >= 1
        proxy.swallow()
        await stand.is_lost(1)
        await eventually(lambda: stand.processes("one") == [], 30, what="the tree ends by its lease")
        await eventually(lambda: not keeper_listens(stand.data), 30, what="and the keeper with it")
        # it was not the end of a connection that ended it
        assert sshd.connections() == before

        assert await stand.launcher.open(1) == 1
        (listed,) = await stand.launcher.list()
        assert listed.exit_status is not None
        await stand.launcher.aclose(end_instances=True)


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
