"""What the store does when the database does not: locked, full, killed, read in vain."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from pool.errors import PoolError, StoreUnavailable
from pool.model import Cursor
from pool.store.base import AppendEvents, LogEntry, PatchSession, PutSession
from pool.store.engines import READERS
from pool.store.sql import SqlStore
from tests.pool.store.records import ALICE, BOB, a_session

REPOSITORY = Path(__file__).parents[3]


async def test_a_lock_that_passes_is_waited_for(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path, busy_timeout_seconds=0.05)
    await store.open()
    with closing(sqlite3.connect(tmp_path / "claude-pool.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        commit = asyncio.ensure_future(store.commit([PutSession(a_session())]))
        done, _ = await asyncio.wait([commit], timeout=0.1)
        assert not done
        # Reads go on meanwhile.
        assert await store.get_session(ALICE) is None
        other.execute("ROLLBACK")
        await commit
    assert await store.get_session(ALICE) == a_session()
    await store.aclose()


async def test_a_lock_that_stays_is_a_typed_error_and_the_writer_survives(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path, busy_timeout_seconds=0.02, patience_seconds=0.1)
    await store.open()
    with closing(sqlite3.connect(tmp_path / "claude-pool.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outcomes = await asyncio.gather(
            *(store.commit([PutSession(a_session(key))]) for key in (ALICE, BOB)), return_exceptions=True
        )
        for outcome in outcomes:
            assert isinstance(outcome, StoreUnavailable)
            assert "locked" in outcome.message
            assert outcome.retry_after_seconds
        with pytest.raises(StoreUnavailable):
            await store.check()
        other.execute("ROLLBACK")
    await store.commit([PutSession(a_session())])
    await store.check()
    await store.aclose()


async def test_closing_does_not_wait_for_a_lock_that_stays(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path, busy_timeout_seconds=0.05, patience_seconds=600)
    await store.open()
    with closing(sqlite3.connect(tmp_path / "claude-pool.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        commit = asyncio.ensure_future(store.commit([PutSession(a_session())]))
        await asyncio.wait([commit], timeout=0.1)
        await asyncio.wait_for(store.aclose(), 20)
        with pytest.raises(StoreUnavailable):
            await commit
        other.execute("ROLLBACK")


async def test_a_full_disk_is_a_typed_error_and_small_commits_go_on(sqlite_store: SqlStore) -> None:
    store = sqlite_store
    await store.commit([PutSession(a_session()), PutSession(a_session(BOB))])

    used = await store.database.submit(
        lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    )
    await limit_pages(store, used + 4)
    large = AppendEvents(ALICE, [LogEntry(Cursor(1, 1, 0), b"x" * 1_000_000)])
    outcomes = await asyncio.gather(
        store.commit([PatchSession(ALICE, {"title": "lost"}), large]),
        store.commit([PatchSession(BOB, {"title": "kept"})]),
        store.commit([large]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], StoreUnavailable)
    assert "full" in outcomes[0].message
    assert outcomes[1] is None
    assert isinstance(outcomes[2], StoreUnavailable)
    assert await store.get_session(ALICE) == a_session()
    assert await store.get_session(BOB) == a_session(BOB, title="kept")
    await limit_pages(store, 1_000_000)
    await store.commit([large])
    assert await store.oldest_event(ALICE) == Cursor(1, 1, 0)


async def limit_pages(store: SqlStore, pages: int) -> None:
    """SQLite's own limit on the file: the error is the one of a full disk, from the same code."""

    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await store.database.submit(limit)


def test_kill_keeps_whole_commits_and_all_that_were_answered(tmp_path: Path) -> None:
    answered = 0
    for _ in range(3):
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.pool.store.writing_program", str(tmp_path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        with program:
            assert program.stdout is not None
            for count, line in enumerate(program.stdout):
                answered = int(line)
                if count >= 150:
                    program.kill()
                    break
            rest = program.stdout.read().split("\n")[:-1]
            answered = max([answered, *map(int, rest)])
        assert program.returncode == -9
    with closing(sqlite3.connect(tmp_path / "claude-pool.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(turns, highest)] = connection.execute("SELECT count(*), max(number) FROM turns").fetchall()
        [(events,)] = connection.execute("SELECT count(*) FROM events").fetchall()
    assert answered <= highest == turns
    assert events == turns * 5


async def test_a_read_given_up_does_not_cost_a_connection(store: SqlStore) -> None:
    log = [LogEntry(Cursor(1, offset, 0), b"x" * 2000) for offset in range(1, 401)]
    await store.commit([PutSession(a_session()), AppendEvents(ALICE, log)])
    for steps in range(40):
        reading = asyncio.ensure_future(store.read_events(ALICE, limit=400))
        for _ in range(steps % 8):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    many = await asyncio.wait_for(asyncio.gather(*(store.get_session(ALICE) for _ in range(50))), 30)
    assert all(record is not None for record in many)


async def every_reader_is_connected(store: SqlStore) -> None:
    """Connections are made when needed, and SQLite opens files when they first read: all do so at once."""
    meeting = threading.Barrier(READERS)

    def read_and_meet(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT count(*) FROM sessions")).scalar_one()
        meeting.wait(30)

    readers = store.database._readers
    assert readers is not None
    await asyncio.gather(*(readers.run(read_and_meet) for _ in range(READERS)))


async def test_reads_given_up_cost_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path)
    await store.open()
    log = [LogEntry(Cursor(1, offset, 0), b"x" * 2000) for offset in range(1, 51)]
    await store.commit([PutSession(a_session()), AppendEvents(ALICE, log)])
    await every_reader_is_connected(store)
    threads = {thread for thread in threading.enumerate() if thread.is_alive()}
    descriptors = len(os.listdir("/proc/self/fd"))
    for steps in range(24):
        reading = [asyncio.ensure_future(store.read_events(ALICE)) for _ in range(4)]
        for _ in range(steps % 8):
            await asyncio.sleep(0)
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    await store.get_session(ALICE)
    assert set(threading.enumerate()) == threads, "the connections are the same"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    await store.aclose()


async def test_closing_lets_reads_end(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path)
    await store.open()
    log = [LogEntry(Cursor(1, offset, 0), b"x" * 3000) for offset in range(1, 501)]
    await store.commit([PutSession(a_session()), AppendEvents(ALICE, log)])
    reads = [asyncio.ensure_future(store.read_events(ALICE)) for _ in range(10)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [len(found) for found in await asyncio.gather(*reads)] == [500] * 10


async def test_what_users_wrote_is_not_in_an_errors_text(store: SqlStore) -> None:
    await store.commit([PutSession(a_session())])
    with pytest.raises(PoolError) as caught:
        await store.commit([PutSession(a_session(title="a private matter"))])
    error: BaseException | None = caught.value
    while error is not None:
        assert "private" not in str(error)
        error = error.__cause__ or error.__context__


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path)
    for use in (store.get_session(ALICE), store.commit([]), store.claim_epoch(0), store.check()):
        with pytest.raises(PoolError):
            await use
    await store.open()
    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await store.commit([PutSession(a_session())])
    with pytest.raises(StoreUnavailable):
        await store.get_session(ALICE)
    await store.aclose()
