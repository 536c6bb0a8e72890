"""What ``/proc`` says about processes: the oracle of tests, which never ask our own registry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MARKER = "CLAUDE_POOL_INSTANCE"


@dataclass(frozen=True, slots=True)
class Process:
    """One process at the moment of looking; ``start_ticks`` tells it from a later one with its pid."""

    pid: int
    ppid: int
    state: str
    start_ticks: int

    @property
    def is_zombie(self) -> bool:
        """Has it ended without being collected?"""
        return self.state in "ZX"

    @property
    def argv(self) -> list[str]:
        """Its arguments; empty for a zombie or when it is gone."""
        return _read(self.pid, "cmdline").decode("utf-8", "replace").split("\0")[:-1]

    @property
    def environ(self) -> dict[str, str]:
        """The environment that it was started with; empty when it may not be read."""
        pairs = (
            item.partition("=") for item in _read(self.pid, "environ").decode("utf-8", "replace").split("\0")
        )
        return {name: value for name, equals, value in pairs if equals}

    @property
    def cwd(self) -> str:
        """Its working directory as it sees it; empty when it is gone."""
        try:
            return os.readlink(f"/proc/{self.pid}/cwd")
        except OSError:
            return ""

    @property
    def mounts(self) -> str:
        """Its mounts, as ``mountinfo`` lists them; empty when it is gone."""
        return _read(self.pid, "mountinfo").decode("utf-8", "replace")

    def __str__(self) -> str:
        return f"pid {self.pid} (parent {self.ppid}, state {self.state}): {' '.join(self.argv)[:200] or '?'}"


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def pids() -> set[int]:
    """The pids of all processes that can be seen."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def look_at(pid: int) -> Process | None:
    """The process with this pid, zombies included; None when there is none."""
    head, _, tail = _read(pid, "stat").rpartition(b") ")
    if not head:
        return None
    words = tail.split()
    return Process(pid=pid, ppid=int(words[1]), state=words[0].decode(), start_ticks=int(words[19]))


def processes(among: set[int] | None = None) -> list[Process]:
    """Every process, or those of ``among`` that still exist."""
    found = (look_at(pid) for pid in sorted(pids() if among is None else among))
    return [process for process in found if process is not None]


def process_tree(pid: int, *, root: bool = True) -> list[Process]:
    """A process (unless not ``root``) and all its descendants, parents before children."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.ppid, []).append(process)
    first = look_at(pid)
    tree = [first] if first is not None and root else []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        tree.extend(below)
        waiting.extend(process.pid for process in below)
    return tree


def marked_processes(*instance_ids: str) -> list[Process]:
    """Every living process of the instances, known by the marker in its environment."""
    return [p for p in processes() if not p.is_zombie and p.environ.get(MARKER) in instance_ids]


def is_alive(pid: int) -> bool:
    """Is there a process with this pid that has not ended?"""
    process = look_at(pid)
    return process is not None and not process.is_zombie
