"""Faults of processes, database and disk, on a schedule that comes from the seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random

from pool.keeper import procfs
from tests.chaos.story import Story
from tests.e2e.site import Site
from tests.procfs import Process, look_at, processes

Fault = Callable[[], Coroutine[None, None, None]]
_SPOOL_BYTES = 256 * 1024 * 1024


def of_site(site: Site) -> list[Process]:
    """Every process that carries this data directory's mark, or names the directory; zombies have neither."""
    mark, data = procfs.site_of(site.data), str(site.data)
    own = {os.getpid(), os.getppid()}
    return [
        process
        for process in processes()
        if process.pid not in own
        and (process.environ.get(procfs.SITE_MARKER) == mark or data in process.argv)
    ]


async def stopped(site: Site, story: Story) -> int:
    """Stop the server; how many processes it left behind. The story is told what should not be."""
    code = await site.stop()
    if code != 0:
        story.fail("machine", f"the server exited with {code}")
    deadline = time.monotonic() + 10
    while (left := of_site(site)) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    for process in left:
        story.fail("machine", f"left behind: {process}")
    return len(left)


def instances_of(site: Site) -> dict[str, list[Process]]:
    """The processes of each instance."""
    found: dict[str, list[Process]] = {}
    for process in of_site(site):
        instance = process.environ.get(procfs.MARKER)
        if instance is not None:
            found.setdefault(instance, []).append(process)
    return found


def program_of(site: Site, module: str) -> Process | None:
    """The keeper or the gateway of this site."""
    return next((process for process in of_site(site) if module in process.argv), None)


def signal_surely(process: Process, number: int) -> bool:
    """Signal this very process, never one that has its pid by now."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            now = look_at(process.pid)
            if now is not None and now.start_ticks == process.start_ticks:
                signal.pidfd_send_signal(descriptor, number)
                return True
        finally:
            os.close(descriptor)
    return False


class Machine:
    """The machine room of one site."""

    def __init__(self, site: Site, story: Story, *, with_disk: bool) -> None:
        self.site, self.story = site, story
        self.calm_after = float("inf")
        self.is_over = asyncio.Event()
        self._host, self._processes = Random(f"{story.seed}:host"), Random(f"{story.seed}:processes")
        self._disk = _SmallDisk(site.data / "spool") if with_disk else None
        self._stopped: list[Process] = []

    def __enter__(self) -> Machine:
        if self._disk is not None and not self._disk.mount():
            self._disk = None
        return self

    def __exit__(self, *_: object) -> None:
        self.recover()
        if self._disk is not None:
            self._disk.unmount()

    def recover(self) -> None:
        """Take back every fault that lasts."""
        for process in self._stopped:
            signal_surely(process, signal.SIGCONT)
        self._stopped.clear()
        if self._disk is not None:
            self._disk.empty()

    async def trouble_the_host(self) -> None:
        """Kill, lock, fill, drain and reload, one after the other, until it is over."""
        cards = [self._kill_server] * 4 + [self._kill_gateway] * 2 + [self._kill_keeper] * 2
        cards += [self._lock_database] * 2 + [self._drain, self._reload]
        cards += [self._fill_disk] if self._disk is not None else []
        deck: list[Fault] = []
        while not await self._is_over_within(self._host.uniform(1, 6)):
            if not deck:
                deck = self._host.sample(cards, len(cards))
            fault = deck.pop()
            # The figures of the server are compared at the end: its last life must be long enough.
            if fault != self._kill_server or time.monotonic() < self.calm_after:
                await fault()

    async def _is_over_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.is_over.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def trouble_the_processes(self) -> None:
        """Kill, stop and continue processes of instances until cancelled."""
        while True:
            await asyncio.sleep(self._processes.uniform(0.5, 3))
            trees = await asyncio.to_thread(instances_of, self.site)
            if trees:
                tree = self._processes.choice(sorted(trees.items()))[1]
                await self._hit(self._processes.choice(tree))

    async def _hit(self, process: Process) -> None:
        name = " ".join(process.argv)[:40]
        if self._processes.random() < 0.5:
            self.story.tell("machine", f"kill-cli {process.pid} {name}")
            signal_surely(process, signal.SIGKILL)
            return
        seconds = self._processes.choice((0.2, 1.0, 6.0))
        self.story.tell("machine", f"stop-cli {process.pid} {name} for {seconds} s")
        if signal_surely(process, signal.SIGSTOP):
            self._stopped.append(process)
            asyncio.get_running_loop().call_later(seconds, self._continue, process)

    def _continue(self, process: Process) -> None:
        if process in self._stopped:
            self._stopped.remove(process)
            signal_surely(process, signal.SIGCONT)

    async def _kill_server(self) -> None:
        self.story.tell("machine", "kill-server")
        await self.site.kill()
        await asyncio.sleep(self._host.choice((0.0, 0.0, 1.0, 3.0)))
        await self.site.start()
        self.story.tell("machine", "server-is-back")

    async def _kill_gateway(self) -> None:
        await self._kill_program("server.gateway", "kill-gateway")

    async def _kill_keeper(self) -> None:
        await self._kill_program("pool.keeper", "kill-keeper")

    async def _kill_program(self, module: str, told: str) -> None:
        process = await asyncio.to_thread(program_of, self.site, module)
        if process is not None:
            self.story.tell("machine", f"{told} {process.pid}")
            signal_surely(process, signal.SIGKILL)

    async def _lock_database(self) -> None:
        seconds = self._host.choice((1, 3, 7))
        self.story.tell("machine", f"lock-database for {seconds} s")
        await asyncio.to_thread(_hold, self.site.data / "claude-pool.db", seconds)

    async def _drain(self) -> None:
        self.story.tell("machine", "drain")
        await asyncio.to_thread(self.site.command, "drain")
        await asyncio.sleep(self._host.uniform(0.5, 4))
        await asyncio.to_thread(self.site.command, "resume")
        self.story.tell("machine", "resume")

    async def _reload(self) -> None:
        self.story.tell("machine", "reload")
        await asyncio.to_thread(self.site.command, "reload", seconds=240)
        self.story.tell("machine", "reloaded")

    async def _fill_disk(self) -> None:
        assert self._disk is not None
        seconds = self._host.choice((1, 3))
        self.story.tell("machine", f"fill-disk of the spools for {seconds} s")
        await asyncio.to_thread(self._disk.fill)
        await asyncio.sleep(seconds)
        self._disk.empty()


def _hold(database: Path, seconds: float) -> None:
    connection = sqlite3.connect(database, timeout=10, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        pass  # somebody else held it all the time
    finally:
        connection.close()


class _SmallDisk:
    """A small file system of its own for the spools, which can be filled without harm to anybody else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"

    def mount(self) -> bool:
        """False where that is not allowed."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"size={_SPOOL_BYTES},mode=0700"
        command = ["mount", "-t", "tmpfs", "-o", options, "chaos", str(self._directory)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Leave nothing free."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while file.write(b"\0" * (1 << 20)):
                pass

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Let go of it."""
        subprocess.run(["umount", "-l", str(self._directory)], check=False, capture_output=True)
