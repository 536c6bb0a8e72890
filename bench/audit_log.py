"""What the audit log costs: a commit with and without its record, and reading the whole chain.

.venv/bin/python -m bench.audit_log [RECORDS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pool.audit.records import AuditEntry, told
from pool.model import TurnState
from pool.store.audit import AuditLog, verify
from pool.store.base import AppendAudit, Operation, PutSession, PutTurn
from pool.store.sql import SqlStore
from tests.pool.store.records import a_session, a_turn

_COMMITS = 2000


def _entry(number: int) -> AuditEntry:
    user_id, turn = f"user{number % 500}", f"turn-{number}"
    return told(
        "prompt", 1.0 + number, user_id=user_id, session="default", turn=turn, sha256="0" * 64, length=100
    )


async def _commits(store: SqlStore, first: int, *, audited: bool) -> list[tuple[float, float]]:
    """(Seconds, seconds of processor time) of each of ``_COMMITS`` commits of a turn, one after the other."""
    seconds: list[tuple[float, float]] = []
    for number in range(first, first + _COMMITS):
        operations: list[Operation] = [PutTurn(a_turn(number=number, state=TurnState.QUEUED))]
        began, worked = time.perf_counter(), time.process_time()
        if audited:
            operations.append(AppendAudit([_entry(number)]))
        await store.commit(operations)
        seconds.append((time.perf_counter() - began, time.process_time() - worked))
    return seconds


async def main(records: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        store = SqlStore(None, Path(name))
        await store.open()
        try:
            await store.commit([PutSession(a_session())])
            plain: list[tuple[float, float]] = []
            audited: list[tuple[float, float]] = []
            for turn in range(3):
                plain += await _commits(store, 1 + 2 * turn * _COMMITS, audited=False)
                audited += await _commits(store, 1 + (2 * turn + 1) * _COMMITS, audited=True)
            for label, seconds in (("without", plain), ("with", audited)):
                wall, work = (statistics.median(column) * 1e6 for column in zip(*seconds, strict=True))
                print(f"a commit {label} its record: median {wall:.0f} us, {work:.0f} us of a core")
            log = AuditLog(store.database)
            began = time.perf_counter()
            for start in range(0, records, 1000):
                await log.append(*map(_entry, range(start, start + 1000)))
            print(f"appended in thousands: {records / (time.perf_counter() - began):,.0f} records/s")
        finally:
            await store.aclose()
        began = time.perf_counter()
        verdict = await verify(Path(name), None)
        rate = verdict.records / (time.perf_counter() - began)
        size = (Path(name) / "claude-pool.db").stat().st_size
        print(f"verified: {verdict.records:,} records, {rate:,.0f} records/s, whole: {verdict.is_whole}")
        print(f"database: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
