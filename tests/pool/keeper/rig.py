"""A keeper as a real process, its clients, and the small programs that it holds."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pool.keeper.client import Attached, KeeperClient
from pool.keeper.procfs import SITE_MARKER, site_of
from tests.forking import KEEPER, Forked, forker
from tests.procfs import is_alive, marked_processes
from tests.waiting import eventually

BWRAP = shutil.which("bwrap")
PYTHON = os.path.realpath(sys.executable)

Keeper = subprocess.Popen[bytes] | Forked
_PROGRAM = ("-m", "pool.keeper")

_SANDBOX = (
    *("--unshare-user", "--unshare-pid", "--die-with-parent", "--new-session"),
    *("--bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
)


def python(program: str, *arguments: str) -> list[str]:
    """The command that runs a program given as text."""
    return [PYTHON, "-I", "-S", "-c", program, *arguments]


ECHO = """
import sys
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
"""

SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(600)"


class Collector:
    """A sink that keeps what came and checks that offsets have no holes."""

    def __init__(self, offset: int = 0) -> None:
        self.start = offset
        self.data = bytearray()
        self.exits: list[tuple[int | None, str | None, str]] = []
        self.lost = 0
        self.cause: str | None = None
        self.on_data: Callable[[bytes], None] | None = None

    def data_received(self, offset: int, data: bytes) -> None:
        assert offset == self.start + len(self.data), (offset, self.start, len(self.data))
        self.data += data
        if self.on_data is not None:
            self.on_data(data)

    def exited(
        self, code: int | None, signal: str | None, stderr_tail: str, cause: str | None = None
    ) -> None:
        self.exits.append((code, signal, stderr_tail))
        self.cause = cause

    def launcher_lost(self) -> None:
        self.lost += 1

    async def line_count(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many lines came."""
        await eventually(lambda: self.data.count(b"\n") >= count, seconds)

    async def exit(self, seconds: float = 60.0) -> tuple[int | None, str | None, str]:
        """Wait for the exit."""
        await eventually(lambda: self.exits, seconds, what="exit")
        assert len(self.exits) == 1
        return self.exits[0]


class Rig:
    """One data directory, the keepers that serve it and the clients of the test."""

    def __init__(self, base: Path) -> None:
        self.data = base / "d"
        self.runtime = base / "r"
        self.process: Keeper | None = None
        self.lost: list[int | None] = []
        self.events: list[Mapping[str, Any]] = []
        self._processes: list[Keeper] = []
        self._clients: list[KeeperClient] = []

    async def keeper(
        self,
        *,
        lease: float = 60.0,
        spool_max: int = 512 * 1024 * 1024,
        segment: int = 64 * 1024 * 1024,
        gateway: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = _PROGRAM,
        more: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> Keeper:
        """Start a keeper in the foreground, ``under`` another command, and wait until it listens."""
        options = ["--data", str(self.data), "--runtime", str(self.runtime), "--lease", str(lease)]
        options += ["--spool-max", str(spool_max), "--segment", str(segment), *more]
        if gateway is not None:
            options += ["--gateway-command", json.dumps(list(gateway))]
        keepers = forker(KEEPER) if env is None and program == _PROGRAM and not under else None
        process: Keeper
        if keepers is not None:
            nothing = os.open(os.devnull, os.O_RDONLY)
            process = keepers.fork(options, os.environ, [nothing, 1, 2])
            os.close(nothing)
        else:
            process = subprocess.Popen(  # noqa: ASYNC220 - a test that waits for nothing else
                [*under, sys.executable, "-I", *program, *options],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
            )
        self._processes.append(process)
        self.process = process
        await eventually(
            lambda: b'"keeper_listens"' in self._log_of(process.pid) or process.poll() is not None, 30
        )
        return process

    async def client(self, epoch: int = 1, **options: Any) -> KeeperClient:
        """Attach a server."""
        client = await KeeperClient.connect(
            self.runtime / "keeper.sock",
            epoch,
            self.lost.append,
            on_event=self.events.append,
            **options,
        )
        self._clients.append(client)
        return client

    def nothing_left(self, instance: str) -> bool:
        """Does no living process carry the instance's mark? Other tests use the same ids elsewhere."""
        site = site_of(self.data)
        return not [p for p in marked_processes(instance) if p.environ.get(SITE_MARKER) == site]

    def log(self) -> str:
        """The keeper's log."""
        return (self.data / "keeper" / "keeper.log").read_text()

    async def kill(self) -> None:
        """Send KILL to the keeper and collect it."""
        assert self.process is not None
        self.process.kill()
        await self.wait()

    async def wait(self, seconds: float = 60.0) -> int:
        """The exit code of the keeper."""
        process = self.process
        assert process is not None
        await eventually(lambda: process.poll() is not None, seconds, what="keeper's exit")
        assert process.returncode is not None
        return process.returncode

    async def close(self) -> None:
        """End everything that is left; nothing of the instances may survive a keeper's end."""
        for client in self._clients:
            client.close()
            await client.wait_closed()
        for process in self._processes:
            try:
                await eventually(partial(_has_ended, process), 20)
            finally:
                if process.poll() is None:
                    process.kill()
                    await eventually(partial(_has_ended, process), 20)

    def _log_of(self, pid: int) -> bytes:
        try:
            lines = (self.data / "keeper" / "keeper.log").read_bytes().splitlines()
        except FileNotFoundError:
            return b""
        return b"\n".join(line for line in lines if f'"pid": {pid},'.encode() in line)


def _has_ended(process: Keeper) -> bool:
    """Has it? If not, ask it to leave; the second time it does so at once."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return process.poll() is not None


def request(
    wrapper: str, instance: str, command: Sequence[str], env: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """A start request for a command, sandboxed when the wrapper is bubblewrap."""
    argv = [BWRAP or "bwrap", *_SANDBOX, "--", *command] if wrapper == "bwrap" else list(command)
    return {
        "instance": instance,
        "wrapper": wrapper,
        "argv": argv,
        "env": {"PATH": "/usr/bin:/bin", **(env or {})},
        "isolation": wrapper,
        **more,
    }


async def start(
    client: KeeperClient, wrapper: str, instance: str, command: Sequence[str], **more: Any
) -> tuple[Attached, Collector]:
    """Start a command as an instance and collect its output."""
    collector = Collector()
    return await client.start(request(wrapper, instance, command, **more), collector), collector


async def gone(pid: int, seconds: float = 10.0) -> None:
    """Wait until a process is no more."""
    await eventually(lambda: not is_alive(pid), seconds, what=f"end of {pid}")


async def soon(seconds: float = 0.05) -> None:
    """Let others run; for races, never to wait for something."""
    await asyncio.sleep(seconds)
