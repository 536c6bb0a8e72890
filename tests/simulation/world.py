"""Machine and server of a simulation: a host in memory that takes its time, servers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pool import ClaudeInstancePool, Quota, QuotaBook
from pool.errors import KeeperUnavailable
from pool.store.sql import SqlStore
from tests.fakes.fake_launcher import FakeHost
from tests.pool.runtime.conftest import World
from tests.simulation.loop import SimulatedClock, SimulatedLoop
from tests.simulation.store import SimulatedDatabase

T = TypeVar("T")
SETTINGS: dict[str, Any] = {
    "max_instances": 2,
    "stop_grace_seconds": 0.2,
    "idle_timeout_seconds": 2.0,
    "max_age_seconds": 20.0,
    "approval_hold_seconds": 3.0,
    "unload_seconds": 5.0,
    "queue_timeout_seconds": 20.0,
    "start_timeout_seconds": 5.0,
    "quotas": QuotaBook(default=Quota(turns_per_minute=None, max_instances=2)),
}


class ServerDied(Exception):
    """Whoever waited for an answer gets none."""


class SlowHost(FakeHost):
    """Whatever is asked of it takes as long as the loop's chance says."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    async def passing(self, call: str) -> None:
        if self._loop.random.random() < 0.5:
            await asyncio.sleep(self._loop.latency())
        await super().passing(call)


class SimulatedWorld(World):
    """One data directory, one host, and at most one server at a time."""

    def __init__(self, directory: Path, loop: SimulatedLoop) -> None:
        super().__init__(directory)
        self.loop = loop
        self.host = SlowHost(loop)
        self.clock = SimulatedClock(loop)
        self.pool: ClaudeInstancePool | None = None
        self._is_up = asyncio.Event()
        self._died: asyncio.Future[None] = loop.create_future()

    def make(self, **changes: Any) -> ClaudeInstancePool:
        pool = super().make(**changes)
        store = pool._around.store
        assert isinstance(store, SqlStore)
        store.database.__class__ = SimulatedDatabase
        return pool

    async def begin(self) -> ClaudeInstancePool:
        """A server starts; one that finds no keeper is started again."""
        while True:
            pool = self.make(**SETTINGS)
            try:
                await pool.start()
                break
            except KeeperUnavailable:
                self.pools.remove(pool)
                await asyncio.sleep(0.5)
        self.pool, self._died = pool, self.loop.create_future()
        self._is_up.set()
        return pool

    async def kill(self) -> None:
        """The server is killed: what was not committed is lost, whoever waits gets no answer."""
        pool, self.pool = self.pool, None
        assert pool is not None
        self._is_up.clear()
        store = pool._around.store
        assert isinstance(store, SqlStore)
        assert isinstance(store.database, SimulatedDatabase)
        store.database.lose()
        self._died.set_result(None)
        await self.crash(pool)

    async def up(self) -> tuple[ClaudeInstancePool, asyncio.Future[None]]:
        """The server that runs, or the next one; and the future that its death fulfils."""
        await self._is_up.wait()
        assert self.pool is not None
        return self.pool, self._died

    async def ask(self, verb: Callable[[ClaudeInstancePool], Coroutine[Any, Any, T]]) -> T:
        """Ask the server. Raises ``ServerDied``, and what the pool raises."""
        pool, died = await self.up()
        asking = self.loop.create_task(verb(pool), name="asking")
        await asyncio.wait([asking, died], return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
        if asking.done():
            return asking.result()
        asking.cancel()
        await asyncio.wait({asking})
        raise ServerDied
