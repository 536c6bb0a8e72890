"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.keeper import procfs
from tests.waiting import eventually


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A PostgreSQL server of our own, on a socket in ``directory``. It refuses to be root's."""

    def __init__(self, directory: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        found = shutil.which("initdb", path=os.pathsep.join([*map(str, programs), os.environ["PATH"]]))
        if found is None:
            pytest.skip("there is no PostgreSQL here")
        pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
        self._programs = Path(os.path.realpath(found)).parent
        self._directory = directory
        self._data = directory / "cluster"
        self._port = _free_port()
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"postgresql+psycopg://owner@127.0.0.1:{self._port}/postgres"

    def make(self) -> None:
        """An empty cluster."""
        self._directory.mkdir(mode=0o711)
        if self._user is not None:
            os.chown(self._directory, self._user, -1)
        subprocess.run(
            [self._programs / "initdb", "-D", self._data, "-U", "owner", "-A", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            **self._become(),
        )

    async def start(self) -> None:
        """Returns when it takes connections."""
        self._process = await asyncio.create_subprocess_exec(
            *(self._programs / "postgres", "-D", self._data, "-p", str(self._port)),
            *("-c", f"unix_socket_directories={self._directory}", "-c", "listen_addresses=127.0.0.1"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            **self._become(),
        )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]

        def takes_connections() -> bool:
            return subprocess.run(ready, check=False).returncode == 0

        await eventually(takes_connections)

    def backends(self) -> list[int]:
        """The processes that serve connections of clients."""
        assert self._process is not None
        return [
            pid
            for pid in procfs.children(self._process.pid)
            if b"127.0.0.1" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    async def end(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Without a farewell to those who are connected, unless ``how`` is another one."""
        if self._process is not None:
            self._process.send_signal(how)
            await self._process.wait()
            self._process = None

    def _become(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": str(self._directory)}
        return {"user": self._user, "group": self._user, "extra_groups": [], "cwd": str(self._directory)}


@asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """An empty one that takes connections. Skips where there is no PostgreSQL."""
    directory.chmod(0o711)
    it = Cluster(directory / "postgres")
    it.make()
    await it.start()
    try:
        yield it
    finally:
        await it.end()
