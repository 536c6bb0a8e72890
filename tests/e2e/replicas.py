"""Several servers on one PostgreSQL, each a process with a data directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.site import Frame, Site
from tests.postgresql import Cluster
from tests.waiting import eventually


class ReplicaSite(Site):
    """One of them. It may begin as the owner or as a stand-by."""

    def __init__(
        self, directory: Path, cli: Path | None, cluster: Cluster, *, is_first: bool, **settings: Any
    ) -> None:
        directory.mkdir(mode=0o711, exist_ok=True)
        super().__init__(
            directory,
            cli,
            storage__url=cluster.url,
            **settings,
        )
        self._settings["replica.url"] = self.url
        if not is_first:
            # it says when it listens; there will be no link to wait for
            self._link_code = "-"

    async def health(self) -> Frame:
        """Its page; empty while it does not answer."""
        try:
            async with (
                asyncio.timeout(5),
                aiohttp.ClientSession() as http,
                http.get(f"{self.url}/health") as answer,
            ):
                page: Frame = await answer.json()
                return page
        except (aiohttp.ClientError, TimeoutError, OSError):
            return {}

    async def role(self) -> str:
        """``owner``, ``stand-by``, or nothing."""
        return str((await self.health()).get("replica", {}).get("role", ""))

    async def epoch(self) -> int:
        """Of the ownership that it knows."""
        return int((await self.health())["replica"]["epoch"])

    async def becomes(self, role: str, seconds: float = 40) -> None:
        """Returns when it is that."""

        async def is_it() -> bool:
            return await self.role() == role

        await eventually(is_it, seconds, what=f"{self.url} is {role}")


@asynccontextmanager
async def two_replicas(
    directory: Path, cluster: Cluster, cli: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[ReplicaSite, ReplicaSite]]:
    """The owner and a stand-by. Whatever the test did to them, nothing is left at the end."""
    given = {
        "auth__jwt__secret": secrets.token_hex(32),
        "replica__lease_seconds": 3,
        "pool__max_instances": 0,
        "pool__orphan_lease_seconds": 3,
        "hosts": [{"name": "far", "address": "127.0.0.1", "port": 9, "known_hosts_file": "/dev/null"}],
        **settings,
    }
    one, two = (
        ReplicaSite(directory / name, cli, cluster, is_first=name == "one", **given)
        for name in ("one", "two")
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_nothing_is_left, directory, one, two)
        await one.start()
        await one.becomes("owner")
        await two.start()
        await two.becomes("stand-by")
        yield one, two


async def _nothing_is_left(directory: Path, *sites: ReplicaSite) -> None:
    """Who hands over leaves what runs to the next one; the last one ends it."""
    for site in sites:
        running = [each for each in sites if each._process is not None]
        if site in running:
            await site.stop()
            running.remove(site)
        if running:
            with contextlib.suppress(TimeoutError, AssertionError):
                await running[0].becomes("owner", 20)
    await eventually(lambda: not keepers_below(directory), 60, what="keepers without a server end")


def keepers_below(directory: Path) -> list[int]:
    """The keepers of data directories there."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"pool.keeper" in words and str(directory).encode() in words:
                found.append(int(entry.name))
    return found
