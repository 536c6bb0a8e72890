"""Of a service of root the server is a Linux user without rights; what needs root its steward does for it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pool.config import PoolConfig
from pool.keeper import procfs
from tests.e2e.escapes import uid_of
from tests.e2e.site import Client, Site, client, live_pid, serving
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server that is not root")

FIRST, GATEWAY = PoolConfig(data_dir=Path("/nowhere")).uid_range
SERVER = GATEWAY - 1


@asynccontextmanager
async def stewarded(directory: Path, cli: Path, **settings: Any) -> AsyncIterator[Site]:
    directory.chmod(0o711)
    async with serving(directory, cli, isolation__server_user="auto", **settings) as site:
        yield site


def server_of(site: Site) -> int:
    """The server's own pid: the steward's child that is the server's user."""
    (pid,) = (pid for pid in procfs.children(site.pid) if uid_of(pid) == SERVER)
    return pid


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def keeper_of(site: Site) -> int:
    """Who holds the lock of the data directory's keeper."""
    return int((site.data / "keeper" / "lock").read_text())


def of_root(site: Site) -> set[int]:
    """Every process of root's that has the data directory in its words."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            if os.fsencode(site.data) in words.split(b"\0") and uid_of(int(name)) == 0:
                found.add(int(name))
        except FileNotFoundError:
            continue
    return found


def as_server(command: str) -> str:
    """What a shell's command that is run as the server's user says to standard error."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        user=SERVER,
        group=SERVER,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0, (command, done)
    return done.stderr


def open_memories(pid: int) -> int:
    """How many descriptors of memory without a name a process holds: configurations, TLS files."""
    places = Path(f"/proc/{pid}/fd").iterdir()
    return sum("memfd:" in os.readlink(place) for place in places)


def is_running(viewer: Client, turn: str) -> bool:
    return "running" in viewer.states(turn)


def are_gone(pids: Iterable[int]) -> bool:
    return not any(procfs.read_stat(pid) for pid in pids)


async def test_it_serves_without_any_rights(short_dir: Path, fake_claude: Path) -> None:
    async with stewarded(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as alice:
            await alice.subscribe()
            assert (await alice.ended(await alice.send("hello")))["state"] == "succeeded"
            facts = status(server_of(site))
            assert {facts[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")} == {"0" * 16}
            assert (facts["NoNewPrivs"], facts["Groups"]) == ("1", "")
            assert set(facts["Uid"].split()) == set(facts["Gid"].split()) == {str(SERVER)}
            assert of_root(site) == {site.pid, keeper_of(site)}
            cli = await live_pid(site, token)
            assert uid_of(cli) == FIRST + 1
            for place in ("workspaces/alice", "homes/alice", "keeper", "gateway", "spool"):
                assert "Permission denied" in as_server(f"ls {site.data / place}"), place
            assert "Permission denied" in as_server(f"cat {site.data}/gateway/config.json")
            assert "Permission denied" in as_server(f"cat /proc/{site.pid}/environ")
            for pid in (site.pid, keeper_of(site), cli):
                assert "not permitted" in as_server(f"kill -0 {pid}")
            await asyncio.to_thread(site.command, "ps")


@pytest.mark.acceptance
async def test_killed_in_either_half_it_is_gone_whole_and_comes_back(
    short_dir: Path, fake_claude: Path
) -> None:
    async with stewarded(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as alice:
            await alice.subscribe()
            await alice.ended(await alice.send("hello"))
            cli = await live_pid(site, token)
            for half in ("server", "steward"):
                pids = {"steward": site.pid, "server": server_of(site)}
                turn = await alice.send("stream 40 10")
                await eventually(partial(is_running, alice, turn))
                os.kill(pids[half], signal.SIGKILL)
                assert await site.wait() == -signal.SIGKILL
                await eventually(partial(are_gone, pids.values()))
                await site.start()
                await alice.resume()
                assert (await alice.ended(turn))["state"] == "succeeded"
                assert await live_pid(site, token) == cli
                alice.check_order()


@pytest.mark.acceptance
async def test_a_keeper_that_dies_is_replaced_and_a_reload_replaces_everybody(
    short_dir: Path, fake_claude: Path
) -> None:
    async with stewarded(short_dir, fake_claude) as site:
        token = await site.add_user("alice")
        async with client(site, token) as alice:
            await alice.subscribe()
            await alice.ended(await alice.send("hello"))
            before = keeper_of(site)
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: keeper_of(site) != before)
            assert (await alice.ended(await alice.send("hello again")))["state"] == "succeeded"
            steward, server = site.pid, server_of(site)
            await asyncio.to_thread(site.command, "reload")
            assert site.pid == steward
            assert server_of(site) != server
            await alice.resume()
            assert (await alice.ended(await alice.send("hello once more")))["state"] == "succeeded"
            assert of_root(site) == {site.pid, keeper_of(site)}


@pytest.mark.acceptance
async def test_tls_with_a_key_that_only_root_can_read(short_dir: Path, fake_claude: Path) -> None:
    key, certificate = short_dir / "key.pem", short_dir / "cert.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
        *("-subj", "/CN=localhost", "-keyout", key, "-out", certificate),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    key.chmod(0o600)
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False
    tls = {"server__tls_key_file": str(key), "server__tls_cert_file": str(certificate)}
    async with stewarded(short_dir, fake_claude, **tls) as site:
        memories = []
        for _ in range(3):
            async with (
                aiohttp.ClientSession() as http,
                http.get(f"https://127.0.0.1:{site.port}/health", ssl=trusting) as answer,
            ):
                assert answer.status == 200
                assert uid_of(server_of(site)) == SERVER
            memories.append(open_memories(site.pid))
            await asyncio.to_thread(site.command, "reload")
    assert len(set(memories)) == 1, memories


@pytest.mark.acceptance
async def test_who_wants_the_server_as_root_has_it(short_dir: Path, fake_claude: Path) -> None:
    short_dir.chmod(0o711)
    async with serving(short_dir, fake_claude, isolation__server_user="root") as site:
        assert not [pid for pid in procfs.children(site.pid) if uid_of(pid) == SERVER]
