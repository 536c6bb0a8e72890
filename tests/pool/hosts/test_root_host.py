"""A host whose service is root, as an operator sets it up: the command, sandboxes, uids, the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pool.config import PoolConfig
from pool.errors import Forbidden
from pool.hosts.ssh import SshLauncher, open_ssh_host
from pool.hosts.trust import LinkTimes
from pool.keeper.client import KeeperError
from pool.launch.isolation import probe
from pool.model import InstanceId
from tests.leaks import TEST_MARKER
from tests.pool.hosts.sshd import Sshd
from tests.pool.hosts.stand import STOP, Stand, keeper_listens, say, some_results, spec_of
from tests.pool.launch.rig import Sink

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a host with uids"),
    pytest.mark.skipif(not probe().works, reason=f"no bubblewrap that works: {probe().detail}"),
]

ALICE = 200001


async def test_a_server_that_was_taken_over_gets_no_root_of_a_host_that_is_root(
    sshd: Sshd, short_dir: Path, fake_claude: Path
) -> None:
    short_dir.chmod(0o711)
    data = short_dir / "d"
    settings = {"cli": {"path": str(fake_claude)}, "pool": {"max_instances": 7}}
    config = short_dir / "config.yaml"
    config.write_text(json.dumps(settings))
    config.chmod(0o600)
    program = Path(sys.executable).with_name("claude-pool")
    marker = f"{TEST_MARKER}={os.environ[TEST_MARKER]}"
    sshd.allow(f'restrict,command="env {marker} {program} host --data {data} --config {config}"')
    server = PoolConfig(data_dir=short_dir / "server", gateway_command=())
    # as the default has it: what the key may run is decided there
    host = open_ssh_host(sshd.host(command="claude-pool host"), server, LinkTimes())
    launcher = host.launcher
    assert isinstance(launcher, SshLauncher)
    await launcher.open(1)
    try:
        facts = launcher.facts()
        assert (facts.isolation.mode, launcher.carries()) == ("bwrap", 7)
        if not facts.isolation.has_uids:
            pytest.skip("users have no uids here")
        assert launcher.uid_range() == (200000, 265535)
        with pytest.raises(Forbidden):
            await asyncio.to_thread(host.files.ensure, "alice", uid=0)
        paths = await asyncio.to_thread(host.files.ensure, "alice", uid=ALICE)
        assert paths.workspace.stat().st_uid == ALICE
        stand = Stand(host, data)
        sink = Sink()
        spec = replace(spec_of("one", paths), uid=ALICE)
        handle = await launcher.start(spec, sink)
        await say(handle, "good morning")
        await some_results(sink)
        assert ALICE in {os.stat(f"/proc/{pid}").st_uid for pid in stand.processes("one")}

        attached = launcher._attached
        assert attached is not None
        client = attached._client
        assert client is not None
        assert client.hello is not None
        assert client.hello.service_uid == 265534
        assert client.hello.gateway_uid == 265535
        assert client.hello.gateway_pid is not None
        asked = await asyncio.to_thread(
            attached._host.request, replace(spec, instance_id=InstanceId("two")), data
        )
        for change in ({"rights": {"uid": 0}}, {"rights": None}, {"wrapper": "/bin/sh"}):
            with pytest.raises(KeeperError) as refusal:
                await client.request("start", **(asked | change))
            assert refusal.value.code == "forbidden"
        with pytest.raises(Forbidden):
            await asyncio.to_thread(attached._host.request, replace(spec, uid=0), data)
        assert handle.identity is not None
        pids = {"one": handle.identity.pid}
        report = await asyncio.to_thread(launcher.process_report, pids, ["one"], [])
        assert report.trees["one"].processes >= 1
        await handle.stop(STOP)
        assert stand.processes("one") == []
        assert stat.S_IMODE((data / "host.lock").stat().st_mode) == 0o600
    finally:
        await launcher.aclose(end_instances=True)
    assert not keeper_listens(data)
