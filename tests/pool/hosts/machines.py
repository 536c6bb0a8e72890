"""Machines that are none: a data directory and a real keeper each, over a socket that can be cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pool.config import PoolConfig
from pool.errors import KeeperUnavailable
from pool.hosts.base import PoolHost
from pool.keeper.client import KeeperClient
from pool.keeper.procfs import SITE_MARKER, site_of
from pool.keeper.server import SOCKET_NAME
from pool.launch.local import LocalLauncher
from pool.launch.process_table import ProcessReport
from pool.workspace.host_files import HostFiles
from tests.procfs import MARKER, processes


class Way:
    """Carries everything between ``socket`` and a keeper's, until it is cut."""

    def __init__(self, socket: Path, keeper: Path) -> None:
        self.socket = socket
        self.is_cut = False
        self._keeper = keeper
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.socket))

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Both ends see the other go; nobody gets through."""
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        """Whoever comes is carried again."""
        self.is_cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_unix_connection(str(self._keeper))
        except OSError:
            writer.transport.abort()  # no keeper listens yet
            return
        self._writers += [writer, to_there]
        for source, sink in ((reader, to_there), (there, writer)):
            self._tasks.add(asyncio.create_task(self._carry(source, sink), name="way"))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


class FarLauncher(LocalLauncher):
    """Over a way; its pids are another machine's."""

    def __init__(self, config: PoolConfig, way: Way) -> None:
        super().__init__(config)
        self._way = way

    def supervisor_pids(self) -> set[int]:
        return set()

    def process_report(
        self, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
    ) -> ProcessReport:
        if self._keeper is None or self._way.is_cut:
            raise KeeperUnavailable("the link is cut")
        return super().process_report(pids, known, {self._keeper.pid})

    async def _dial(self, epoch: int) -> KeeperClient:
        if self._way.is_cut:
            raise KeeperUnavailable("the link is cut")
        return await KeeperClient.connect(self._way.socket, epoch, self._lost)


class FarFiles(HostFiles):
    """Also over the way."""

    def __init__(self, data_dir: Path, way: Way) -> None:
        super().__init__(data_dir)
        self._way = way

    def homes(self) -> list[str]:
        self._check()
        return super().homes()

    def data_sizes(self) -> Iterator[dict[str, int]]:
        self._check()
        return super().data_sizes()

    def remove(self, user_id: str) -> None:
        self._check()
        super().remove(user_id)

    def _check(self) -> None:
        if self._way.is_cut:
            raise KeeperUnavailable("the link is cut")


class Machine:
    """One of them; it outlives the servers that use it."""

    def __init__(self, name: str, directory: Path, config: PoolConfig, capacity: int) -> None:
        self.name = name
        self.config = config
        self.capacity = capacity
        assert config.runtime_dir is not None
        self.way = Way(directory / f"{name}.sock", config.runtime_dir / SOCKET_NAME)

    def host(self) -> PoolHost:
        """As one server sees it."""
        files = FarFiles(self.config.data_dir, self.way)
        launcher = FarLauncher(self.config, self.way)
        return PoolHost(name=self.name, launcher=launcher, files=files, capacity=self.capacity)

    def plan(self, user_id: str, **behaviour: Any) -> None:
        """Tell the fake CLI of ``user_id`` how to behave."""
        workspace = self.config.data_dir / "workspaces" / user_id
        workspace.mkdir(parents=True, exist_ok=True)
        (workspace / ".fake-claude.json").write_text(json.dumps(behaviour))

    def processes(self) -> dict[int, str]:
        """All living processes of instances there, and of which instance each is: what the system says."""
        site = site_of(self.config.data_dir)
        found = [p for p in processes() if not p.is_zombie and MARKER in p.environ]
        return {p.pid: p.environ[MARKER] for p in found if p.environ.get(SITE_MARKER) == site}
