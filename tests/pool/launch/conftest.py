"""A launcher on a data directory of its own, with a script as the CLI."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.launch.isolation import probe
from pool.launch.local import LocalLauncher
from tests.pool.launch.rig import SCRIPT, Stand


@pytest.fixture(params=["none", "bwrap"])
def mode(request: pytest.FixtureRequest) -> str:
    """Each isolation mode; bubblewrap only where it works."""
    name = str(request.param)
    if name == "bwrap" and not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    return name


@pytest.fixture
def script_cli(short_dir: Path) -> Path:
    """A CLI that is a Python script: runs what it is told in ``--do`` or echoes its input."""
    path = short_dir / "claude-script"
    path.write_text(SCRIPT)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
async def stand_of(
    short_dir: Path, script_cli: Path, forked_keepers: None
) -> AsyncIterator[Callable[..., Stand]]:
    """Makes launchers on one data directory; all are closed and their keepers ended at the end."""
    async with AsyncExitStack() as stack:

        def make(mode: str, **options: Any) -> Stand:
            defaults = {
                "data_dir": short_dir / "data",
                "runtime_dir": short_dir / "run",
                "cli_path": script_cli,
                "gateway_command": (),
                "stop_grace_seconds": 1.0,
                "isolation_mode": mode,
            }
            launcher = LocalLauncher(PoolConfig(**{**defaults, **options}))
            stand = Stand(launcher, short_dir)
            stack.push_async_callback(stand.aclose)
            return stand

        yield make
