"""What ``/proc`` says about processes, and signals that never hit a stranger.

A pid is only a number that the kernel uses again. Everything here that
signals does it through a pidfd which was checked, after it was opened, to be
of the process that was meant. Functions raise ``OSError`` when they cannot
tell, which is not the same as that there is nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from pool.keeper.handover import Packer, State, Unpacker

MARKER = "CLAUDE_POOL_INSTANCE"
SITE_MARKER = "CLAUDE_POOL_SITE"

_DEAD_STATES = frozenset("ZXx")
# gone, or hidden from us and so not ours; any other error (no descriptor left, say) tells nothing
# about the process: unknown is not dead
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True)
class Mark:
    """What every process of an instance has in its environment.

    ``site`` stands for the data directory: a copy of one has a journal with
    the same instances, and its keeper must not end those of the original.
    """

    instance: str
    site: str

    def environment(self) -> dict[str, str]:
        """The two variables."""
        return {MARKER: self.instance, SITE_MARKER: self.site}


def site_of(data_dir: Path) -> str:
    """The name of a data directory in marks."""
    return hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of ``/proc/PID/stat`` that identify a process; ``start_ticks`` is field 22."""

    pid: int
    comm: str
    state: str
    ppid: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """Does it run or can it run again? A zombie cannot."""
        return self.state not in _DEAD_STATES


_STAT_FIELDS = tuple(field.name for field in fields(Stat))


@cache
def boot_id() -> str:
    """The kernel's random id of this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def parse_stat(text: bytes) -> Stat:
    """Read one ``stat`` line; the name in it may hold any byte, brackets too."""
    opening, closing = text.index(b"("), text.rindex(b")")
    rest = text[closing + 2 :].split()
    comm = text[opening + 1 : closing].decode(errors="replace")
    return Stat(int(text[:opening]), comm, rest[0].decode(), int(rest[1]), int(rest[19]))


def read_stat(pid: int) -> Stat | None:
    """The process's ``stat``, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())
    except _GONE:
        return None


def all_stats() -> Iterator[Stat]:
    """Every process that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = read_stat(int(name))
            if stat is not None:
                yield stat


def children(pid: int) -> list[int]:
    """The pids of the direct children, zombies included; empty when there is no such process."""
    if not _has_children_files():
        return [stat.pid for stat in all_stats() if stat.ppid == pid]
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found.extend(_children_of_task(pid, task))
    except _GONE:
        pass
    return found


def _children_of_task(pid: int, task: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except _GONE:
        # the thread ended; its children are another thread's now
        return []


@cache
def _has_children_files() -> bool:
    """Was the kernel built with CONFIG_PROC_CHILDREN?"""
    me = os.getpid()
    return os.path.exists(f"/proc/{me}/task/{me}/children")


def descendants(pids: Iterable[int]) -> list[Stat]:
    """All living processes below ``pids``, without these themselves."""
    found: dict[int, Stat] = {}
    todo = list(pids)
    while todo:
        for child in children(todo.pop()):
            if child not in found:
                stat = read_stat(child)
                if stat is not None:
                    found[child] = stat
                    todo.append(child)
    return [stat for stat in found.values() if stat.is_alive]


def mark_of(pid: int) -> Mark | None:
    """The mark in the environment that the process was started with, None without one."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except _GONE:
        return None
    # the first of two counts, as it does for getenv
    found = dict(entry.partition(b"=")[::2] for entry in reversed(entries))
    instance, site = found.get(MARKER.encode()), found.get(SITE_MARKER.encode())
    if instance is None or site is None:
        return None
    return Mark(instance.decode(errors="replace"), site.decode(errors="replace"))


def marked(marks: Iterable[Mark]) -> dict[Mark, list[Stat]]:
    """The living processes that carry one of the marks, by mark."""
    wanted = frozenset(marks)
    found: dict[Mark, list[Stat]] = {}
    me = os.getpid()
    for stat in all_stats():
        if stat.pid != me and stat.is_alive:
            mark = mark_of(stat.pid)
            if mark is not None and mark in wanted:
                found.setdefault(mark, []).append(stat)
    return found


# What ``pidfd_open`` says of a process that is reaped just then, or of a thread: it depends on the kernel.
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)


class ProcessRef:
    """A process held by its pidfd: signals reach it or nobody. Close it when done."""

    __slots__ = ("fd", "stat")

    def __init__(self, fd: int, stat: Stat) -> None:
        self.fd = fd
        self.stat = stat

    @classmethod
    def open(cls, pid: int) -> ProcessRef | None:
        """The process that has this pid now, None when there is none."""
        try:
            fd = os.pidfd_open(pid)
        except ValueError:
            return None
        except OSError as error:
            if error.errno in _NO_PROCESS:
                return None
            raise
        stat = read_stat(pid)
        # still alive after the read: what was read is of the process held
        if stat is None or not stat.is_alive or _is_readable(fd):
            os.close(fd)
            return None
        return cls(fd, stat)

    def to_state(self, packer: Packer) -> State:
        """The pidfd, and what was read of the process when it was opened."""
        return {"fd": packer.descriptor(self.fd), **asdict(self.stat)}

    @classmethod
    def from_state(cls, state: State, unpacker: Unpacker) -> ProcessRef:
        """The way back: the very process, whatever has its pid by now."""
        return cls(unpacker.descriptor(state["fd"]), Stat(**{key: state[key] for key in _STAT_FIELDS}))

    @property
    def pid(self) -> int:
        """Its pid; of meaning only while it lives."""
        return self.stat.pid

    @property
    def is_dead(self) -> bool:
        """Has it ended (reaped or not)?"""
        return _is_readable(self.fd)

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process is gone or may not be signalled."""
        try:
            signal.pidfd_send_signal(self.fd, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def close(self) -> None:
        """Let go of the pidfd; again: no effect."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def signal_exactly(stat: Stat, number: int, mark: Mark | None = None) -> bool:
    """Signal the process that ``stat`` was read of, and no later one with its pid.

    With ``mark`` it must also carry that mark now. False: nobody was signalled.
    """
    ref = ProcessRef.open(stat.pid)
    if ref is None:
        return False
    try:
        if ref.stat.start_ticks != stat.start_ticks:
            return False
        if mark is not None and mark_of(stat.pid) != mark:
            return False
        return ref.signal(number)
    finally:
        ref.close()


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
