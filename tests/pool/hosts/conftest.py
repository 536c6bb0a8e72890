"""One sshd for all tests of a file, and hosts behind it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.config import PoolConfig
from pool.hosts.facts import HostFacts, facts_of
from pool.steward.hosting import open_host
from tests.pool.hosts.forked import Programs
from tests.pool.hosts.sshd import PROGRAM, Sshd
from tests.waiting import eventually_sync


@pytest.fixture(scope="module")
def programs(private_temp: Path) -> Iterator[Programs]:
    """Host programs as sshd starts them. None is left in the end."""
    directory = Path(tempfile.mkdtemp(prefix="cp-programs-"))
    made = Programs(directory / "s")
    yield made
    try:
        eventually_sync(lambda: made.running() == 0, 10, what="every host program has ended")
    finally:
        made.close()
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def sshd(programs: Programs) -> Iterator[Sshd]:
    """A real one for all tests of a file. Skips where there is none; on CI that is a failure."""
    with a_sshd(programs) as server:
        yield server


@pytest.fixture
def own_sshd(short_dir: Path, programs: Programs) -> Iterator[Sshd]:
    """One that a test may start anew."""
    with a_sshd(programs) as server:
        yield server


@contextmanager
def a_sshd(programs: Programs) -> Iterator[Sshd]:
    if PROGRAM is None:
        message = "sshd is not installed: apt-get install openssh-server"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    directory = Path(tempfile.mkdtemp(prefix="cp-sshd-"))
    server = Sshd(directory, programs)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(directory)


@pytest.fixture
def settings(short_dir: Path, fake_claude: Path) -> dict[str, Any]:
    """Of the machine that is the host."""
    return {
        "data_dir": str(short_dir / "d"),
        "runtime_dir": str(short_dir / "r"),
        "cli_path": str(fake_claude),
        "isolation_mode": "none",
        "orphan_lease_seconds": 60,
    }


@pytest.fixture
def facts(short_dir: Path) -> HostFacts:
    """Of a machine like this one."""
    config = PoolConfig(data_dir=short_dir / "d", isolation_mode="none", gateway_command=())
    return facts_of(config, open_host(config))
