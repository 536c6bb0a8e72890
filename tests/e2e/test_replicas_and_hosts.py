"""Two replicas and a machine over a real sshd: one CLI whoever owns, no turn that a replica's end costs."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.replicas import ReplicaSite, two_replicas
from tests.e2e.site import Client, client, get
from tests.leaks import TEST_MARKER
from tests.pool.hosts.conftest import a_sshd
from tests.pool.hosts.forked import Programs
from tests.pool.hosts.sshd import Sshd
from tests.postgresql import Cluster, running_cluster
from tests.procfs import is_alive, processes
from tests.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("forked_servers")]

ALL = " ".join(f"w{n}" for n in range(300))


@pytest.fixture
async def cluster(short_dir: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(short_dir) as it:
        yield it


@pytest.fixture
def far_sshd(short_dir: Path) -> Iterator[Sshd]:
    programs = Programs(short_dir / "programs")
    try:
        with a_sshd(programs) as server:
            yield server
    finally:
        programs.close()


@dataclass(frozen=True)
class Stage:
    """Two replicas, one host; ``cli`` is the program that runs there."""

    one: ReplicaSite
    two: ReplicaSite
    cli: Path
    data: Path
    token: str

    def clis(self) -> list[int]:
        """The pids of alice's CLIs on the host, by ``/proc``; a new owner may try one out."""
        words = str(self.cli).encode()
        found = {
            process.pid: process.ppid
            for process in processes()
            if words in (command := _read(process.pid, "cmdline")).split(b"\0")
            and b"shim" not in command
            and all(part in _read(process.pid, "environ") for part in (str(self.data).encode(), b"alice"))
        }
        # what a CLI has forked off is still that one
        return [pid for pid, parent in found.items() if parent not in found]

    def only_cli(self) -> int:
        found = self.clis()
        assert len(found) == 1, [_read(pid, "cmdline") for pid in found]
        return found[0]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@asynccontextmanager
async def on_stage(
    cluster: Cluster, sshd: Sshd, directory: Path, cli: Path, **more: Any
) -> AsyncIterator[Stage]:
    data = directory / "host" / "data"
    data.parent.mkdir()
    settings = {
        TEST_MARKER: os.environ[TEST_MARKER],
        "CLAUDE_POOL__CLI__PATH": str(cli),
        "CLAUDE_POOL__ISOLATION__MODE": "none",
        "CLAUDE_POOL__ISOLATION__NETWORK": "open",
        "CLAUDE_POOL__POOL__ORPHAN_LEASE_SECONDS": "20",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    words = ["env", *(f"{name}={value}" for name, value in settings.items())]
    words += [sys.executable, "-m", "server", "host", "--data", str(data)]
    sshd.allow(f'restrict,command="{shlex.join(words)}"')
    host = sshd.host()
    far = {
        "name": "far",
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "key_file": str(host.key_file),
        "known_hosts_file": str(host.known_hosts_file),
    }
    async with two_replicas(directory, cluster, cli, hosts=[far], **more) as (one, two):
        token = await one.add_user("alice")

        async def both_are_ready() -> bool:
            pages = [await get(site, token, "/readyz") for site in (one, two)]
            return all(page["ready"] for page in pages)

        await eventually(both_are_ready, 40, what="both are ready: the host is reached")
        yield Stage(one, two, cli, data, token)


async def both(stage: Stage) -> tuple[Client, Client]:
    """A client at each replica that follows the session."""
    clients = Client(stage.one, stage.token), Client(stage.two, stage.token)
    for each in clients:
        await each.connect()
        await each.subscribe()
    return clients


async def streams(viewer: Client) -> None:
    """It sees the beginning of a turn."""
    await eventually(lambda: "w20" in viewer.streamed())


async def in_mid_turn(stage: Stage) -> tuple[Client, Client, str, int]:
    """A client at each replica that sees a long turn, the turn and the CLI that runs it."""
    at_one, at_two = await both(stage)
    turn = await at_two.send("stream 300 50")
    for viewer in (at_one, at_two):
        await streams(viewer)
    return at_one, at_two, turn, stage.only_cli()


async def test_messages_at_both_replicas_at_once_reach_one_cli_and_both_see_everything(
    cluster: Cluster, far_sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    async with on_stage(cluster, far_sshd, short_dir, fake_claude) as stage:
        at_one, at_two = await both(stage)
        turns = await asyncio.gather(at_one.send("say one"), at_two.send("say two"))
        assert len(set(turns)) == 2
        for viewer in (at_one, at_two):
            for turn in turns:
                assert (await viewer.ended(turn))["state"] == "succeeded"
            viewer.check_order()
        stage.only_cli()
        logs = [
            [(frame["cursor"], json.dumps(frame["event"])) for frame in viewer.of_type("event")]
            for viewer in (at_one, at_two)
        ]
        assert logs[0] == logs[1]
        assert logs[0]
        for viewer in (at_one, at_two):
            await viewer.close()


async def test_an_owner_killed_in_mid_turn_costs_neither_the_turn_nor_a_frame(
    cluster: Cluster, far_sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    async with on_stage(cluster, far_sshd, short_dir, fake_claude) as stage:
        at_one, at_two, turn, pid = await in_mid_turn(stage)
        await stage.one.kill()
        await stage.two.becomes("owner")
        assert is_alive(pid)
        await eventually(lambda: at_two.close_code is not None)
        assert at_two.close_code == 1012
        # who was at the replica that is gone goes to the other one, with the cursor that it has
        at_one._site = stage.two
        for viewer in (at_one, at_two):
            await viewer.resume()
        for viewer in (at_one, at_two):
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert viewer.streamed() == ALL
            assert len(viewer.endings(turn)) == 1
            viewer.check_order()
        assert stage.only_cli() == pid
        async with client(stage.two, stage.token) as newcomer:
            await newcomer.subscribe(cursor="0")
            await eventually(lambda: newcomer.endings(turn))
            assert newcomer.answer() == ALL
        for viewer in (at_one, at_two):
            await viewer.close()


async def test_an_owner_paused_past_its_lease_writes_nothing_when_it_wakes(
    cluster: Cluster, far_sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    async with on_stage(cluster, far_sshd, short_dir, fake_claude) as stage:
        at_one, at_two, turn, pid = await in_mid_turn(stage)
        os.kill(stage.one.server_pid, signal.SIGSTOP)
        # taken by the kernel of the replica that sleeps; it finds it when it wakes
        await at_one.put(type="send", session_id="default", content="say 666", message_id="stale")
        await at_one.put(type="interrupt", session_id="default")
        await stage.two.becomes("owner")
        await at_two.resume()
        os.kill(stage.one.server_pid, signal.SIGCONT)
        await stage.one.becomes("stand-by")
        assert "does no more: its lease was not renewed in time" in stage.one.log()
        assert (await at_two.ended(turn))["state"] == "succeeded"
        assert at_two.streamed() == ALL
        assert stage.only_cli() == pid
        # nothing of the message came anywhere: through either replica it runs once, from the beginning
        await at_one.resume()
        assert not [frame for frame in at_one.frames if frame.get("message_id") == "stale"]
        again = await at_one.send("say 666", message_id="stale")
        for viewer in (at_one, at_two):
            assert (await viewer.ended(again))["state"] == "succeeded"
            assert viewer.answer().count("666") == 1
            viewer.check_order()
            await viewer.close()


async def test_an_owner_that_is_told_to_stop_leaves_the_turn_to_the_next_one_and_the_last_one_ends_it(
    cluster: Cluster, far_sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    async with on_stage(
        cluster, far_sshd, short_dir, fake_claude, pool__drain_timeout_seconds=1, replica__lease_seconds=6
    ) as stage:
        at_one, at_two = await both(stage)
        turn = await at_one.send("stream 300 50")
        await streams(at_one)
        pid = stage.only_cli()
        assert await stage.one.stop() == 0
        await eventually(lambda: at_one.close_code is not None)
        assert at_one.close_code == 1012
        await stage.two.becomes("owner")
        assert stage.only_cli() == pid
        at_one._site = stage.two
        for viewer in (at_one, at_two):
            await viewer.resume()
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert viewer.streamed() == ALL
            await viewer.close()
        assert await stage.two.stop() == 0
        assert stage.clis() == []
