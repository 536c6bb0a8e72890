"""What every session of one pool shares."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from pool.clock import Clock
from pool.config import PoolConfig
from pool.errors import PoolError
from pool.model import InstanceId, SessionKey, UserId
from pool.runtime.backlog import Backlog
from pool.runtime.conformance.features import Features
from pool.runtime.counting import Counters
from pool.runtime.hosts import Host, Hosts
from pool.runtime.instance import Instance
from pool.runtime.running import RunningTurns
from pool.runtime.tool_policy import ToolPolicy
from pool.store.base import Store
from pool.workspace.host_files import HostFiles

_log = logging.getLogger(__name__)


class Tasks:
    """The owner of every task of the pool: named, kept, its failure read and logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work`` until it ends or the pool does."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run ``work``; nobody waits for it."""
        self.spawn(work, name).add_done_callback(lambda _task: None)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, PoolError):
            # Not its message: that may end with what the CLI wrote to stderr.
            _log.warning("%s ended with %s", task.get_name(), error.code)
        elif error is not None:
            _log.error("%s failed", task.get_name(), exc_info=error)

    async def aclose(self, timeout_seconds: float) -> None:
        """Let the tasks end, then cancel what is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@dataclass(slots=True)
class Surroundings:
    """The adapters, limits and figures that sessions work with. ``epoch`` is set when attached.

    ``cli_stamp`` tells the CLI's program from every other one (a failure
    is a ``PoolError`` or ``OSError``); ``features`` is what it can do, and
    ``cli_check`` how that is told on the health page. ``disk_work`` is what
    a thread does on a user's disk now; ``live`` has every session's
    instance, so that nobody looks for the few among all sessions.
    """

    config: PoolConfig
    clock: Clock
    store: Store
    hosts: Hosts
    workspaces: HostFiles
    backlog: Backlog
    tasks: Tasks = field(default_factory=Tasks)
    counters: Counters = field(default_factory=Counters)
    epoch: int = 0
    is_stopping: bool = False
    instance_ended: Callable[[Host, InstanceId], None] = lambda _host, _instance: None
    cli_stamp: Callable[[], str] = lambda: ""
    features: Features = field(default_factory=Features)
    tool_policy: ToolPolicy = field(init=False)
    running: RunningTurns = field(init=False)
    disk_work: dict[UserId, asyncio.Future[Any]] = field(default_factory=dict)
    live: dict[SessionKey, Instance] = field(default_factory=dict)
    cli_check: Mapping[str, Any] = field(default_factory=lambda: {"ok": True, "detail": "not checked yet"})

    def __post_init__(self) -> None:
        self.tool_policy = ToolPolicy(self.config)
        self.running = RunningTurns(self.config.quotas)
