"""The writer thread: order, groups, bounds and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pool.errors import StoreUnavailable
from pool.store.engines import create_private_file, locate, writing_engine
from pool.store.writer import Work, Writer


def create_table(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY)")


def an_engine(data_dir: Path) -> sa.Engine:
    location = locate(None, data_dir)
    assert location.file is not None
    create_private_file(location.file)
    return writing_engine(location, 0.1)


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return an_engine(tmp_path)


@pytest.fixture
async def writer(engine: sa.Engine) -> AsyncIterator[Writer]:
    writer = Writer(engine, create_table, capacity=100)
    await writer.start()
    yield writer
    await writer.aclose()


def note(number: int) -> Work[int]:
    def work(connection: sa.Connection) -> int:
        connection.exec_driver_sql("INSERT INTO notes VALUES (?)", (number,))
        return number

    return work


def all_notes(connection: sa.Connection) -> list[int]:
    return list(connection.exec_driver_sql("SELECT n FROM notes ORDER BY n").scalars())


class Gate:
    """Holds the writer in the middle of a transaction until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, _connection: sa.Connection) -> None:
        self.entered.set()
        self.open.wait(10)


async def test_work_that_waits_shares_one_transaction(writer: Writer, engine: sa.Engine) -> None:
    began: list[int] = []
    sa.event.listen(engine, "begin", lambda _connection: began.append(1))
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = [writer.submit(note(number)) for number in range(50)]
    gate.open.set()
    assert await asyncio.gather(*waiting) == list(range(50))
    await first
    assert len(began) == 2


async def test_many_callers_share_few_transactions(engine: sa.Engine) -> None:
    """A sanity check of the throughput, counted in transactions and not in time."""
    writer = Writer(engine, create_table)
    await writer.start()
    began: list[int] = []
    sa.event.listen(engine, "begin", lambda _connection: began.append(1))

    async def caller(number: int) -> None:
        for step in range(20):
            await writer.submit(note(number * 100 + step))

    await asyncio.gather(*(caller(number) for number in range(100)))
    # Each round of a hundred callers is queued while the one before is under way.
    assert len(began) < 400
    assert len(await writer.submit(all_notes)) == 2000
    await writer.aclose()


async def test_a_failing_one_fails_alone_in_its_group(writer: Writer) -> None:
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait, 10)

    def half(connection: sa.Connection) -> None:
        note(1000)(connection)
        raise ValueError("changed my mind")

    results: list[asyncio.Future[Any]] = [writer.submit(work) for work in (note(1), half, note(1), note(2))]
    gate.open.set()
    await first
    await asyncio.wait(results)
    outcomes = [future.exception() or future.result() for future in results]
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], sa.exc.IntegrityError)
    assert outcomes[3] == 2
    assert await writer.submit(all_notes) == [1, 2]


async def test_a_caller_that_goes_away_does_not_take_its_work_back(writer: Writer) -> None:
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait, 10)
    abandoned = writer.submit(note(7))
    abandoned.cancel()
    gate.open.set()
    await first
    assert await writer.submit(all_notes) == [7]


async def test_too_much_waiting_work_is_refused(writer: Writer) -> None:
    gate = Gate()
    first = writer.submit(gate)
    await asyncio.to_thread(gate.entered.wait, 10)
    waiting = [writer.submit(note(number)) for number in range(100)]
    with pytest.raises(StoreUnavailable):
        await writer.submit(note(100))
    gate.open.set()
    await asyncio.gather(first, *waiting)
    assert await writer.submit(note(100)) == 100


async def test_closing_commits_what_is_queued_and_ends_the_thread(tmp_path: Path, engine: sa.Engine) -> None:
    writer = Writer(engine, create_table)
    await writer.start()
    waiting = [writer.submit(note(number)) for number in range(20)]
    await writer.aclose()
    await writer.aclose()
    assert [future.result() for future in waiting] == list(range(20))
    with pytest.raises(StoreUnavailable):
        await writer.submit(note(21))
    assert not [thread for thread in threading.enumerate() if thread.name == "store-writer"]
    again = Writer(an_engine(tmp_path), create_table)
    await again.start()
    assert await again.submit(all_notes) == list(range(20))
    await again.aclose()


async def test_a_preparation_that_fails_leaves_no_thread(engine: sa.Engine) -> None:
    def fail(_engine: sa.Engine) -> None:
        raise RuntimeError("no")

    writer = Writer(engine, fail)
    with pytest.raises(StoreUnavailable):
        await writer.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "store-writer"]


async def test_a_writer_that_never_started_takes_nothing(engine: sa.Engine) -> None:
    writer = Writer(engine, create_table)
    with pytest.raises(StoreUnavailable):
        await writer.submit(note(1))
    await writer.aclose()
    engine.dispose()


def test_work_for_a_loop_that_is_gone_is_stored_all_the_same(engine: sa.Engine) -> None:
    writer = Writer(engine, create_table)
    gate = Gate()
    unanswered: list[asyncio.Future[Any]] = []

    async def leave() -> None:
        await writer.start()
        unanswered.append(writer.submit(gate))
        await asyncio.to_thread(gate.entered.wait, 10)
        unanswered.append(writer.submit(note(5)))

    async def look() -> list[int]:
        return await writer.submit(all_notes)

    asyncio.run(leave())
    gate.open.set()
    assert asyncio.run(look()) == [5]
    # Nobody can await the end on the loop that is gone; the thread must end all the same.
    thread = next(thread for thread in threading.enumerate() if thread.name == "store-writer")
    writer._closing.set()
    with writer._wake:
        writer._wake.notify()
    thread.join(10)
    assert not thread.is_alive()
