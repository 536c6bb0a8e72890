"""What the tests of launchers share: a script that plays the CLI, a sink, a launcher with its directories."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pool.errors import KeeperUnavailable
from pool.keeper.procfs import SITE_MARKER, site_of
from pool.launch.base import Launcher, LaunchSpec, StopGraces
from pool.model import ExitStatus, InstanceId, SessionId, SessionKey, UserId
from tests.procfs import marked_processes
from tests.waiting import eventually

SCRIPT = f"""#!{sys.executable}
import json, os, sys, time
if '--do' in sys.argv:
    exec(sys.argv[sys.argv.index('--do') + 1])
else:
    print(json.dumps({{'args': sys.argv[1:], 'cwd': os.getcwd(), 'env': dict(os.environ)}}), flush=True)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""

QUICK = StopGraces(end_of_input=1, term=1, kill=5)


class Sink:
    """Keeps what came; offsets must have no holes."""

    def __init__(self, offset: int = 0) -> None:
        self.start = offset
        self.data = bytearray()
        self.exits: list[tuple[ExitStatus, str]] = []
        self.lost = 0

    def data_received(self, offset: int, data: bytes) -> None:
        assert offset == self.start + len(self.data)
        self.data += data

    def exited(self, status: ExitStatus, stderr_tail: str) -> None:
        self.exits.append((status, stderr_tail))

    def launcher_lost(self) -> None:
        self.lost += 1

    async def lines(self, count: int) -> list[Any]:
        """Wait for so many lines; all of them, parsed."""
        await eventually(lambda: self.data.count(b"\n") >= count, 60)
        return [json.loads(line) for line in self.data.splitlines()]

    async def exit(self) -> ExitStatus:
        """Wait for the exit."""
        await eventually(lambda: self.exits, 60, what="exit")
        assert len(self.exits) == 1
        return self.exits[0][0]


class Stand:
    """A launcher and the directories of one user."""

    def __init__(self, launcher: Launcher, base: Path) -> None:
        self.launcher = launcher
        self.workspace = base / "data" / "workspaces" / "alice"
        self.home = base / "data" / "homes" / "alice"
        self.lost: list[str] = []
        self._site = site_of(base / "data")
        launcher.on_lost(lambda: self.lost.append("lost"))
        for directory in (self.workspace, self.home):
            directory.mkdir(parents=True, exist_ok=True)

    def spec(self, instance: str, *args: str, env: dict[str, str] | None = None) -> LaunchSpec:
        """What to start; ``args`` are the CLI's."""
        return LaunchSpec(
            instance_id=InstanceId(instance),
            key=SessionKey(UserId("alice"), SessionId("default")),
            cli_args=args,
            env=env or {},
            workspace=self.workspace,
            home=self.home,
            labels={"user": "alice"},
        )

    async def do(self, program: str, instance: str = "one", *, network: str | None = None) -> Any:
        """Run a program as the CLI; what it printed, parsed."""
        sink = Sink()
        await self.launcher.start(replace(self.spec(instance, "--do", program), network=network), sink)
        status = await sink.exit()
        assert status == ExitStatus(0), sink.exits
        return json.loads(sink.data)

    def keeper(self) -> int:
        """The pid of who holds the data directory now, or held it last."""
        return int((self.workspace.parents[1] / "keeper" / "lock").read_text())

    def processes(self, instance: str) -> list[int]:
        """The pids of the living processes of an instance; other tests use the same ids elsewhere."""
        return [p.pid for p in marked_processes(instance) if p.environ.get(SITE_MARKER) == self._site]

    async def aclose(self) -> None:
        """End everything, also when the launcher was detached before."""
        with suppress(KeeperUnavailable):  # another one took over, and ends the keeper
            await self.launcher.open(10**6)
        await self.launcher.aclose(end_instances=True)


async def cancelled(task: asyncio.Task[Any]) -> bool:
    """Cancel a task and wait; was it cancelled?"""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False
