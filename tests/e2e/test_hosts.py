"""``claude-pool serve`` whose instances run on another machine, over a real sshd."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from pool.keeper.procfs import SITE_MARKER, site_of
from server.control_client import call
from tests.e2e.site import Site, client, live_pid, serving
from tests.leaks import TEST_MARKER
from tests.pool.hosts.conftest import programs, sshd
from tests.pool.hosts.sshd import Sshd
from tests.procfs import look_at
from tests.waiting import eventually

__all__ = ["programs", "sshd"]

WORDS = " ".join(f"w{n}" for n in range(60))


def as_host(sshd: Sshd, directory: Path, cli: Path) -> list[dict[str, object]]:
    """Make this machine one that a server reaches over SSH; what that server is told of it."""
    config = directory / "host.yaml"
    config.write_text(json.dumps({"cli": {"path": str(cli)}, "isolation": {"mode": "none"}}))
    config.chmod(0o600)
    program = Path(sys.executable).with_name("claude-pool")
    marker = f"{TEST_MARKER}={os.environ[TEST_MARKER]}"
    far = directory / "far"
    sshd.allow(f'restrict,command="env {marker} {program} host --data {far} --config {config}"')
    host: dict[str, object] = {"name": "far", "address": "127.0.0.1", "port": sshd.port}
    host |= {"user": getpass.getuser(), "capacity": 3}
    return [
        host
        | {
            "key_file": str(sshd.directory / "key"),
            "known_hosts_file": str(sshd.known_hosts()),
        }
    ]


async def health(site: Site) -> dict[str, dict[str, object]]:
    headers = {"Authorization": f"Bearer {await site.admin()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{site.url}/health") as response,
    ):
        checks: dict[str, dict[str, object]] = (await response.json())["checks"]
    return checks


async def is_reached(site: Site) -> bool:
    return (await health(site))["hosts"] == {"ok": True, "detail": "1 reached"}


@pytest.mark.acceptance
async def test_a_session_lives_on_another_machine_and_outlives_its_server(
    sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    hosts = as_host(sshd, short_dir, fake_claude)
    async with serving(short_dir, fake_claude, pool__max_instances=0, hosts=hosts) as site:
        token = await site.add_user("alice")
        await eventually(lambda: is_reached(site), 60)
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await viewer.ended(await viewer.send("hello"))
            pid = await live_pid(site, token)
            process = look_at(pid)
            assert process is not None
            assert process.environ[SITE_MARKER] == site_of(short_dir / "far")
            assert (short_dir / "far" / "workspaces" / "alice" / "README.md").is_file()
            assert not (site.data / "workspaces" / "alice").exists()
            start = len(viewer.frames)
            turn = await viewer.send("stream 60 15")
            await eventually(lambda: len(viewer.frames) >= start + 12)
            await site.kill()
            await site.start()
            await viewer.resume()
            assert (await viewer.ended(turn))["state"] == "succeeded"
            assert await live_pid(site, token) == pid
            assert viewer.streamed(start) == viewer.answer(start) == WORDS
            assert not viewer.of_type("gap")
            viewer.check_order()
        assert await is_reached(site)
        told = call(site.data, "ps", {})
        (instance,) = told["instances"]
        assert (instance["host"], instance["pid"]) == ("far", pid)
        assert instance["tree"]["processes"] >= 1
        assert told["orphans"] == []
        assert (told["hosts"][0]["slots"], told["hosts"][0]["users"]) == (3, 1)
        assert "far" in site.command("ps")
        assert "the server reaches it" in site.command("doctor")
        assert await site.stop() == 0
        await eventually(lambda: look_at(pid) is None)
        await site.start()
