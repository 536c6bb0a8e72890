"""What the fence of the store costs: commits of events to PostgreSQL with and without it, by turns.

.venv/bin/python -m bench.fence
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from pool.model import Cursor, SessionKey
from pool.store.base import AppendEvents, LogEntry, PutSession
from pool.store.fence import Fence
from pool.store.lease import PoolLease
from pool.store.sql import SqlStore
from tests.pool.store.records import ALICE, BOB, a_session
from tests.postgresql import running_cluster

_COMMITS = 2000
_LEASE_SECONDS = 600


async def _commit(store: SqlStore, key: SessionKey, offset: int) -> tuple[float, float]:
    """(Seconds, seconds of processor time of ours)."""
    began, worked = time.perf_counter(), time.process_time()
    await store.commit([AppendEvents(key, [LogEntry(Cursor(1, offset, 0), b'{"type":"own"}')])])
    return time.perf_counter() - began, time.process_time() - worked


async def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        directory = Path(name)
        async with running_cluster(directory) as cluster:
            plain = SqlStore(cluster.url, directory)
            await plain.open()
            lease = PoolLease(
                cluster.url, directory, holder="bench", url="http://bench", lease_seconds=_LEASE_SECONDS
            )
            await lease.open()
            epoch = await lease.take()
            assert epoch is not None
            fenced = SqlStore(cluster.url, directory, fence=Fence(epoch, _LEASE_SECONDS, lambda: None))
            await fenced.open()
            try:
                await plain.commit([PutSession(a_session(ALICE)), PutSession(a_session(BOB))])
                without, behind = [], []
                for number in range(1, _COMMITS + 1):
                    without.append(await _commit(plain, ALICE, number * 10))
                    behind.append(await _commit(fenced, BOB, number * 10))
                for label, seconds in (("without", without), ("with", behind)):
                    wall, work = (statistics.median(column) * 1e6 for column in zip(*seconds, strict=True))
                    print(f"a commit {label} the fence: median {wall:.0f} us, {work:.0f} us of a core")
            finally:
                await fenced.aclose()
                await plain.aclose()
                await lease.aclose()


if __name__ == "__main__":
    asyncio.run(main())
