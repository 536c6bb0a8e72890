"""Pools over a host in memory and a real database, so that a test can stop time between two steps."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook
from pool.clock import Clock
from pool.hosts.base import PoolHost
from pool.model import SessionId, SessionKey, UserId
from pool.runtime.session import Session
from pool.workspace.host_files import HostFiles
from tests.fakes.fake_launcher import FakeHost, FakeLauncher
from tests.pool.conftest import Screen
from tests.waiting import eventually

ALICE = SessionKey(UserId("alice"), SessionId("default"))


class World:
    """One data directory and one host; servers come and go."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = FakeHost()
        self.pools: list[ClaudeInstancePool] = []
        self.settings: dict[str, Any] = {}
        self.clock: Clock | None = None
        self.is_far = False
        """Is the host another machine, which can be out of reach while everything on it lives?"""

    def make(self, **changes: Any) -> ClaudeInstancePool:
        """A pool that is not started."""
        self.settings |= changes
        fixed: dict[str, Any] = {
            "data_dir": self.directory,
            "stop_grace_seconds": 0.2,
            "check_cli": False,
            "quotas": QuotaBook(default=Quota(turns_per_minute=None)),
        }
        config = PoolConfig(**{**fixed, **self.settings})
        launcher = self.host.launcher()
        if self.is_far:
            far = PoolHost(
                name="far",
                launcher=launcher,
                files=HostFiles(self.directory / "far"),
                capacity=config.max_instances,
            )
            pool = ClaudeInstancePool(config, hosts=[far], clock=self.clock)
        else:
            pool = ClaudeInstancePool(config, launcher=launcher, clock=self.clock)
        self.pools.append(pool)
        return pool

    async def start(self, **changes: Any) -> ClaudeInstancePool:
        """A started pool."""
        pool = self.make(**changes)
        await pool.start()
        return pool

    async def crash(self, pool: ClaudeInstancePool) -> None:
        """The server is killed: nothing of it runs on, nothing is said to the host or the store."""
        launcher = pool._around.hosts.first.launcher
        assert isinstance(launcher, FakeLauncher)
        launcher.sever()
        pool._around.is_stopping = True
        tasks = [*pool._around.tasks._tasks]
        for session in pool._supervisor.sessions.values():
            session.quiet()
            session.log._is_closed = True
            subscriptions = list(session.channel.subscriptions)
            tasks += [s._task for s in subscriptions if s._task is not None]
            tasks += [session.log._task] if session.log._task is not None else []
            for subscription in subscriptions:
                subscription.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool._around.store.aclose()
        pool._is_started = False
        self.pools.remove(pool)

    async def aclose(self) -> None:
        """End what is left."""
        for gate in self.host.gates.values():
            gate.set()
        for cli in self.host.clis.values():
            cli.outlives_kill = False
        for pool in reversed(self.pools):
            await pool.shutdown(drain_timeout_seconds=0)
        gc.collect()


@pytest.fixture
async def far(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose one host is another machine; it is looked for often, and not waited for long."""
    monkeypatch.setattr("pool.runtime.reopening._BACKOFF_SECONDS", (0.0, 0.02))
    monkeypatch.setattr("pool.runtime.instance._LOST_SECONDS", 0.2)
    world = World(short_dir / "data")
    world.is_far = True
    yield world
    world.host.mend()
    await world.aclose()


@pytest.fixture
async def world(short_dir: Path) -> AsyncIterator[World]:
    world = World(short_dir / "data")
    yield world
    await world.aclose()


def session_of(pool: ClaudeInstancePool, session: str = "default") -> Session:
    return pool._supervisor.sessions[SessionKey(UserId("alice"), SessionId(session))]


async def follow(pool: ClaudeInstancePool, session: str = "default", cursor: str | None = None) -> Screen:
    screen = Screen()
    await pool.subscribe("alice", session, cursor, screen)
    return screen


async def say(pool: ClaudeInstancePool, message_id: str, session: str = "default") -> str:
    return (await pool.submit("alice", session, f"words {message_id}", message_id=message_id)).turn_id


async def soon(predicate: Callable[[], object], what: str = "") -> None:
    await eventually(lambda: bool(predicate()), what=what)


def manual(cli: Any) -> None:
    """For ``host.prepare``: the test plays the turns."""
    cli.is_manual = True
