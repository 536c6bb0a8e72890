"""What a keeper that was killed left behind: ended and recorded before anything new begins.

A process is ended only when it carries the mark of an instance that the
journal knows, in this boot, and is not older than that instance; and, with
it, whatever descends from it. A stored pid alone is never signalled: the
number may be a stranger's by now.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence

from pool.keeper import procfs
from pool.keeper.journal import Journal, Record
from pool.keeper.log import Log

_DEADLINE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def reconcile(journal: Journal, site: str, log: Log) -> list[Record]:
    """End the remains of former keepers of ``site``; all records, none of them living."""
    records, unreadable = journal.load()
    for name in unreadable:
        log.write("journal_unreadable", file=name)
    unfinished = [record for record in records if record.exited_at is None]
    survivors = _end(unfinished, site)
    for record in unfinished:
        log.write("orphan_ended", instance=record.instance, left=survivors.get(record.instance, 0))
        record.exited_at = time.time()
        try:
            journal.write(record)
        except OSError as error:
            log.write("journal_not_written", instance=record.instance, error=str(error))
    return records


def _end(records: Sequence[Record], site: str) -> dict[str, int]:
    """KILL until nothing is left or the deadline; how many processes are left, by instance."""
    current = {
        procfs.Mark(record.instance, site): record for record in records if record.boot_id == procfs.boot_id()
    }
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        left = {mark.instance: _kill(mark, stats) for mark, stats in _proven(current).items()}
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(_PAUSE_SECONDS)


def _proven(records: Mapping[procfs.Mark, Record]) -> dict[procfs.Mark, list[procfs.Stat]]:
    """The processes that carry an instance's mark and are not older than it."""
    if not records:
        return {}
    found = {}
    for mark, stats in procfs.marked(records).items():
        shell = records[mark].shell
        oldest = 0 if shell is None else shell.start_ticks
        found[mark] = [stat for stat in stats if stat.start_ticks >= oldest]
    return found


def _kill(mark: procfs.Mark, proven: Sequence[procfs.Stat]) -> int:
    """KILL them and all below them; how many there were."""
    below = procfs.descendants([stat.pid for stat in proven])
    for stat in proven:
        procfs.signal_exactly(stat, signal.SIGKILL, mark)
    for stat in below:
        procfs.signal_exactly(stat, signal.SIGKILL)
    return len(proven) + len(below)
