"""What ``/proc`` shows of our instances: whole trees, zombies, and processes that no instance owns.

Everything here reads many small files and belongs into a thread. Nothing is
signalled. Of processes under other uids only root sees the mark.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pool.keeper import procfs
from pool.keeper.program import noted_groups

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_KEEPER_WORDS = (b"pool.keeper", b"keeper")


def kernel_holds_memory(data_dir: Path) -> bool:
    """Does each instance have a control group with a limit of memory?"""
    noted = noted_groups(data_dir)
    return noted is not None and "memory" in noted[1]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process, as one line of ``/proc/PID/stat`` tells of it."""

    pid: int
    parent: int
    name: str
    state: str
    threads: int
    rss_bytes: int
    cpu_seconds: float
    age_seconds: float
    start_ticks: int
    cpu_seconds_with_children: float


@dataclass(frozen=True, slots=True)
class TreeFigures:
    """An instance's processes together; memory that they share is counted for each of them."""

    instance_id: str
    processes: int
    threads: int
    rss_bytes: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class WatchedTree:
    """What a watch must know of an instance's tree.

    ``processes`` are the CLI and what it started, without the sandbox around
    it. ``cpu_seconds`` has what ended children took. ``tool_ages`` are the
    ages in seconds of all that the CLI started, MCP servers included.
    ``is_stopped``: the CLI itself is held by a signal or a debugger.
    """

    processes: int
    rss_bytes: int
    cpu_seconds: float
    tool_ages: tuple[float, ...]
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class StrayProcess:
    """A living process with our mark whose instance nobody knows: an orphan."""

    pid: int
    parent: int
    name: str
    instance_id: str
    rss_bytes: int
    cpu_seconds: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What ``claude-pool ps`` shows: the trees by instance id, and the orphans."""

    trees: Mapping[str, TreeFigures]
    orphans: Collection[StrayProcess]


def read_table() -> dict[int, ProcessFigures]:
    """Every process that can be seen, by pid, in one pass."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    found = (read_figures(int(name), uptime) for name in os.listdir("/proc") if name.isdigit())
    return {figures.pid: figures for figures in found if figures is not None}


def read_figures(pid: int, uptime: float) -> ProcessFigures | None:
    """One process; None when it is gone."""
    text = _stat(pid)
    if text is None:
        return None
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split()
    return ProcessFigures(
        pid=pid,
        parent=int(fields[1]),
        name=text[opening + 1 : closing].decode(errors="replace"),
        state=fields[0].decode(),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        age_seconds=max(0.0, uptime - int(fields[19]) / _TICKS),
        start_ticks=int(fields[19]),
        cpu_seconds_with_children=sum(map(int, fields[11:15])) / _TICKS,
    )


def _stat(pid: int) -> bytes | None:
    """``/proc/PID/stat``, whole in one read, at a third of what a file object costs."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, _PAGE_BYTES)
    except OSError:
        return None  # it ended in between
    finally:
        os.close(fd)


def watched_trees(
    identities: Mapping[str, tuple[int, int]], keepers: Collection[int]
) -> dict[str, WatchedTree]:
    """The trees of instances (id: pid and start ticks of the CLI) from one pass over ``/proc``.

    An instance whose CLI is not there, or is not below one of ``keepers``, has none.
    """
    table = read_table()
    below = _children(table)
    trees = {}
    for instance_id, (pid, start_ticks) in identities.items():
        root = _root(pid, table, keepers)
        if pid in table and table[pid].start_ticks == start_ticks and table[root].parent in keepers:
            trees[instance_id] = _watched(pid, root, below, table)
    return trees


def _watched(
    pid: int, root: int, below: Mapping[int, list[int]], table: Mapping[int, ProcessFigures]
) -> WatchedTree:
    members = _tree(root, below, table)
    is_stopped = table[pid].state in "Tt"
    around = {pid}
    while pid != root:
        pid = table[pid].parent
        around.add(pid)
    alive = [member for member in members if member.state not in "ZXx"]
    tools = [member for member in alive if member.pid not in around]
    return WatchedTree(
        processes=len(tools) + 1,
        rss_bytes=sum(member.rss_bytes for member in alive),
        cpu_seconds=sum(member.cpu_seconds_with_children for member in members),
        tool_ages=tuple(member.age_seconds for member in tools),
        is_stopped=is_stopped,
    )


def report(
    data_dir: Path, pids: Mapping[str, int], known: Collection[str], keepers: Collection[int]
) -> ProcessReport:
    """The trees of ``pids`` (instance id: the CLI's pid) below ``keepers``, and whatever is not ``known``."""
    table = read_table()
    below = _children(table)
    trees = {
        instance_id: _sum(instance_id, _tree(_root(pid, table, keepers), below, table))
        for instance_id, pid in pids.items()
        if pid in table
    }
    return ProcessReport(trees, _strays(table, procfs.site_of(data_dir), known))


def find_orphans(data_dir: Path) -> list[StrayProcess]:
    """Beside no server: living processes of this data directory that no keeper looks after."""
    table = read_table()
    strays = _strays(table, procfs.site_of(data_dir), ())
    return [stray for stray in strays if not _has_keeper(stray.pid, table)]


def count_zombies(pid: int) -> int:
    """Children of ``pid`` that have ended and that it has not collected."""
    stats = (procfs.read_stat(child) for child in procfs.children(pid))
    return sum(stat is not None and stat.state == "Z" for stat in stats)


def _root(pid: int, table: Mapping[int, ProcessFigures], keepers: Collection[int]) -> int:
    """The process right below the keeper (the sandbox or shim); ``pid`` itself when no keeper is above."""
    current = pid
    while current in table and table[current].parent > 1:
        if table[current].parent in keepers:
            return current
        current = table[current].parent
    return pid


def _children(table: Mapping[int, ProcessFigures]) -> dict[int, list[int]]:
    below: dict[int, list[int]] = {}
    for figures in table.values():
        below.setdefault(figures.parent, []).append(figures.pid)
    return below


def _tree(
    root: int, below: Mapping[int, list[int]], table: Mapping[int, ProcessFigures]
) -> list[ProcessFigures]:
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(table[pid])
        todo += below.get(pid, ())
    return found


def _sum(instance_id: str, members: Iterable[ProcessFigures]) -> TreeFigures:
    alive = [member for member in members if member.state not in "ZXx"]
    return TreeFigures(
        instance_id,
        len(alive),
        sum(member.threads for member in alive),
        sum(member.rss_bytes for member in alive),
        sum(member.cpu_seconds for member in alive),
    )


def _strays(table: Mapping[int, ProcessFigures], site: str, known: Collection[str]) -> list[StrayProcess]:
    found = []
    for figures in table.values():
        mark = procfs.mark_of(figures.pid) if figures.state not in "ZXx" else None
        if mark is not None and mark.site == site and mark.instance not in known:
            found.append(
                StrayProcess(
                    figures.pid,
                    figures.parent,
                    figures.name,
                    mark.instance,
                    figures.rss_bytes,
                    figures.cpu_seconds,
                    figures.age_seconds,
                )
            )
    return found


def _has_keeper(pid: int, table: Mapping[int, ProcessFigures]) -> bool:
    current = pid
    while current in table and table[current].parent > 1:
        current = table[current].parent
        if _is_keeper(current):
            return True
    return False


def _is_keeper(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"-m" in words and any(word in _KEEPER_WORDS for word in words)
