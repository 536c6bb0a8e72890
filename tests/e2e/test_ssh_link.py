"""A server without rights and a host of root's, a real sshd between them: the link is lost in mid-turn."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pool.keeper.program import noted_runtime_dir
from pool.launch.isolation import probe
from tests.e2e.site import Client, Site, client, serving
from tests.leaks import TEST_MARKER
from tests.pool.hosts.conftest import a_sshd, programs
from tests.pool.hosts.sshd import Proxy, Sshd
from tests.waiting import eventually

__all__ = ["programs"]

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server that is not root"),
    pytest.mark.skipif(not probe().works, reason=f"no bubblewrap that works: {probe().detail}"),
]


@pytest.fixture
def sshd(programs: Any) -> Iterator[Sshd]:
    with a_sshd(programs) as made:
        yield made


def as_host(sshd: Sshd, port: int, directory: Path, cli: Path) -> list[dict[str, Any]]:
    """Make this machine one that a server reaches through ``port``; what that server is told of it."""
    directory.chmod(0o711)
    config = directory / "host.yaml"
    config.write_text(json.dumps({"cli": {"path": str(cli)}}))
    config.chmod(0o600)
    program = Path(sys.executable).with_name("claude-pool")
    marker = f"{TEST_MARKER}={os.environ[TEST_MARKER]}"
    sshd.allow(f'restrict,command="env {marker} {program} host --data {directory / "far"} --config {config}"')
    # without a user: who started the service, which is not who the server is
    files = {"key_file": str(sshd.directory / "key"), "known_hosts_file": str(sshd.known_hosts(port))}
    return [{"name": "far", "address": "127.0.0.1", "port": port, **files}]


async def health(site: Site) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {await site.admin()}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{site.url}/health") as response:
        return dict((await response.json())["checks"]["hosts"])


async def streamed(viewer: Client, start: int) -> None:
    await eventually(lambda: viewer.streamed(start).count(" ") > 10, 30)


async def test_turns_go_on_over_a_cut_and_over_a_half_open_link(
    sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    async with Proxy(sshd.port) as proxy:
        hosts = as_host(sshd, proxy.port, short_dir, fake_claude)
        settings = {"pool__max_instances": 0, "isolation__server_user": "auto", "hosts": hosts}
        async with serving(short_dir, fake_claude, **settings) as site:
            assert os.stat(f"/proc/{site.server_pid}").st_uid != 0

            async def reached() -> bool:
                return bool((await health(site))["ok"])

            async def lost() -> bool:
                return not (await health(site))["ok"]

            await eventually(reached, 60)
            token = await site.add_user("alice")
            async with client(site, token) as viewer:
                await viewer.subscribe()
                assert (await viewer.ended(await viewer.send("hello")))["state"] == "succeeded"
                for trouble, pause in ((proxy.cut, 20), (proxy.swallow, 100)):
                    start = len(viewer.frames)
                    turn = await viewer.send(f"stream 150 {pause}")
                    await streamed(viewer, start)
                    trouble()
                    await eventually(lost, 30)
                    await eventually(reached, 60)
                    assert (await viewer.ended(turn))["state"] == "succeeded"
                    words = " ".join(f"w{n}" for n in range(150))
                    assert viewer.streamed(start) == viewer.answer(start) == words
                    assert not viewer.of_type("gap")
                viewer.check_order()
        # its stop ended what ran there
        assert noted_runtime_dir(short_dir / "far") is None
