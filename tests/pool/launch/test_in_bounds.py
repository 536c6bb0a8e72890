"""What the launcher asks of a keeper that keeps its server in bounds is what such a keeper does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.launch.base import LaunchSpec
from pool.launch.isolation import probe
from pool.launch.local import LocalLauncher
from pool.launch.way_out import find_way_out
from pool.model import InstanceId, SessionId, SessionKey, UserId
from pool.workspace.workspaces import Workspaces
from tests.pool.launch.rig import SCRIPT, Sink
from tests.pool.launch.test_uids import PYTHON

FIRST, SERVICE, GATEWAY = 200150, 200198, 200199
ALICE = FIRST + 1
BOUNDS = ("--service-uid", str(SERVICE), "--uid-range", f"{FIRST}:{GATEWAY}")
LOOK = "print(json.dumps([os.getuid(), os.environ['LD_BIND_NOW'], os.environ['PYTHONSAFEPATH']]))"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that every user can run"),
]


@pytest.fixture
async def launched(short_dir: Path) -> AsyncIterator[Callable[..., Any]]:
    """Runs a look around as alice by a launcher whose keeper has bounds."""
    short_dir.chmod(0o711)
    cli = short_dir / "claude-script"
    cli.write_text("\n".join([f"#!{PYTHON}", *SCRIPT.splitlines()[1:]]) + "\n")
    cli.chmod(0o755)
    async with AsyncExitStack() as stack:

        async def run(mode: str, **more: Any) -> Any:
            config = PoolConfig(
                data_dir=short_dir / mode,
                runtime_dir=short_dir / f"run-{mode}",
                cli_path=cli,
                gateway_command=(),
                keeper_command=(sys.executable, "-I", "-m", "pool.keeper", *BOUNDS),
                stop_grace_seconds=1.0,
                isolation_mode=mode,
                uid_range=(FIRST, GATEWAY),
                **more,
            )
            config.data_dir.mkdir(mode=0o711)
            launcher = LocalLauncher(config)
            stack.push_async_callback(launcher.aclose, end_instances=True)
            await launcher.open(1)
            paths = Workspaces(config.data_dir).ensure("alice", uid=ALICE)
            spec = LaunchSpec(
                instance_id=InstanceId(f"{mode}.1"),
                key=SessionKey(UserId("alice"), SessionId("default")),
                cli_args=("--do", LOOK),
                workspace=paths.workspace,
                home=paths.home,
                env={"LD_BIND_NOW": "1", "PYTHONSAFEPATH": "1"},
                labels={"user": "alice", "session": "default"},
                uid=paths.uid,
            )
            sink = Sink()
            await launcher.start(spec, sink)
            assert (await sink.exit()).code == 0, sink.exits
            return json.loads(sink.data)

        yield run


async def test_without_a_sandbox(launched: Callable[..., Any]) -> None:
    assert await launched("uid") == [ALICE, "1", "1"]


async def test_in_a_sandbox_with_a_way_to_named_hosts(launched: Callable[..., Any], short_dir: Path) -> None:
    path = probe().path
    if path is None or find_way_out(path, to_named_hosts=True, uid=FIRST).remedy is not None:
        pytest.skip("no network of its own can be made here")
    assert await launched("bwrap", egress_allow=("example.org",)) == [1000, "1", "1"]
    assert (short_dir / "bwrap" / "egress" / "alice" / "connections.jsonl").stat().st_uid == 0


async def test_in_a_sandbox_with_the_internet(launched: Callable[..., Any]) -> None:
    path = probe().path
    if path is None or find_way_out(path, uid=FIRST).remedy is not None:
        pytest.skip("no network of its own can be made here")
    assert await launched("bwrap", isolation_network="outbound") == [1000, "1", "1"]
