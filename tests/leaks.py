"""What a test left behind: processes, tasks, threads, descriptors, temporary files.

A ``Watch`` looks before the test and again after it. What is new gets a short
time to go away by itself; what stays is told, and its processes are killed,
but only those that can be attributed to the test: by the marker that the test
has in its environment, by its directories in a process's arguments, working
directory or environment, or by descent. Other tests run beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from tests.forking import forker_pids
from tests.procfs import MARKER, Process, is_alive, pids, processes

TEST_MARKER = "CLAUDE_POOL_TEST"
SETTLE_SECONDS = 2.0
_HARMLESS_FILES = ("/dev/null", "/dev/urandom")
_HARMLESS_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_numbers = itertools.count(1)
_T = TypeVar("_T")


class Watch:
    """The state of this process and machine at one moment, to compare with later."""

    def __init__(self) -> None:
        self.marker = f"{os.getpid()}-{next(_numbers)}"
        os.environ[TEST_MARKER] = self.marker
        self.tasks: list[str] = []
        self._pids = pids()
        self._threads = set(threading.enumerate())
        self._files = _open_files()
        self._temporary = _temporary_entries()

    def leaks(self, directories: Iterable[str] = ()) -> list[str]:
        """Everything that is left, one line each, after the time to settle; kills the processes.

        ``directories`` are the test's own: a process that names one is its.
        """
        paths = [str(path) for path in directories]
        left = _settled(lambda: self.left_processes(paths))
        told = [
            *self.tasks,
            *(f"process {process}" for process in left),
            *_settled(lambda: [f"thread {t.name}" for t in threading.enumerate() if t not in self._threads]),
            *_settled(self._left_files),
            *_settled(lambda: [f"temporary {name}" for name in _temporary_entries() - self._temporary]),
        ]
        for process in self.left_processes(paths) if left else ():
            _kill(process)
        return told

    def left_processes(self, directories: Iterable[str]) -> list[Process]:
        """Processes that began since and belong to this test, zombies of ours included."""
        signs = [f"{TEST_MARKER}={self.marker}", *directories]
        new = {process.pid: process for process in processes(pids() - self._pids)}
        parents = {os.getpid(), *forker_pids()}
        ours = {pid for pid, process in new.items() if _shows(process, signs) or process.ppid in parents}
        grown = True
        while grown:
            below = {pid for pid, process in new.items() if process.ppid in ours and pid not in ours}
            ours |= below
            grown = bool(below)
        return [p for p in (new[pid] for pid in sorted(ours)) if not _is_harmless(p)]

    def _left_files(self) -> list[str]:
        left = {fd: name for fd, name in _open_files().items() if self._files.get(fd) != name}
        if left:
            gc.collect()
        return [f"descriptor {fd}: {name}" for fd, name in _open_files().items() if left.get(fd) == name]

    async def watch_tasks(self) -> None:
        """Note the tasks of the running loop that do not end by themselves, and cancel them."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := asyncio.all_tasks() - {asyncio.current_task()}) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for task in left:
            if task is not None:
                self.tasks.append(f"task {task.get_name()}: {task.get_coro()}")
                task.cancel()


def _settled(look: Callable[[], list[_T]]) -> list[_T]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _shows(process: Process, signs: list[str]) -> bool:
    environ = process.environ
    text = "\0".join([*process.argv, process.cwd, *(f"{k}={v}" for k, v in environ.items())])
    if any(sign in text for sign in signs):
        return True
    # A sandbox hides the host's paths, but its mounts name them below their file system's root.
    mounts = process.mounts if MARKER in environ else ""
    return any("/".join(sign.rsplit("/", 2)[1:]) in mounts for sign in signs if "/" in sign)


def _is_harmless(process: Process) -> bool:
    return any(name in " ".join(process.argv) for name in _HARMLESS_PROCESSES)


def _open_files() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {fd: name for fd, name in found.items() if name not in _HARMLESS_FILES}


def _temporary_entries() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if not name.startswith("pytest-of-")}


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if process in processes({process.pid}) or is_alive(process.pid):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    if process.ppid == os.getpid():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
