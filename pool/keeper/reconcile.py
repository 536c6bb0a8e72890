"""What a keeper that was killed left behind: ended and recorded before anything new begins.

A process is ended only when it carries the marker of an instance that the
journal knows, in this boot, and is not older than that instance; and, with
it, whatever descends from it. A stored pid alone is never signalled: the
number may be a stranger's by now.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from pool.keeper import procfs
from pool.keeper.journal import Journal, Record
from pool.keeper.log import Log

_DEADLINE_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def reconcile(journal: Journal, log: Log) -> list[Record]:
    """End the remains of former keepers; all records, none of them living."""
    records, unreadable = journal.load()
    for name in unreadable:
        log.write("journal_unreadable", file=name)
    unfinished = [record for record in records if record.exited_at is None]
    survivors = _end(unfinished)
    for record in unfinished:
        log.write("orphan_ended", instance=record.instance, left=survivors.get(record.instance, 0))
        record.exited_at = time.time()
        try:
            journal.write(record)
        except OSError as error:
            log.write("journal_not_written", instance=record.instance, error=str(error))
    return records


def _end(records: Sequence[Record]) -> dict[str, int]:
    """KILL until nothing is left or the deadline; how many processes are left, by instance."""
    current = {record.instance: record for record in records if record.boot_id == procfs.boot_id()}
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        found = _provably_ours(current)
        if not any(found.values()) or time.monotonic() > deadline:
            return {instance_id: len(stats) for instance_id, stats in found.items()}
        for stats in found.values():
            for stat in stats:
                procfs.signal_exactly(stat, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)


def _provably_ours(records: dict[str, Record]) -> dict[str, list[procfs.Stat]]:
    if not records:
        return {}
    found = {}
    for instance_id, stats in procfs.marked(records).items():
        shell = records[instance_id].shell
        oldest = 0 if shell is None else shell.start_ticks
        proven = [stat for stat in stats if stat.start_ticks >= oldest]
        below = procfs.descendants([stat.pid for stat in proven])
        found[instance_id] = list({stat.pid: stat for stat in [*proven, *below]}.values())
    return found
