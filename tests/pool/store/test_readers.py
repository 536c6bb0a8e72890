"""Reads in threads: in order, given up before they begin, interrupted at the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from pool.errors import StoreUnavailable
from pool.store.engines import READERS, create_private_file, locate
from pool.store.readers import Readers
from tests.waiting import eventually

_ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest_asyncio.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    location = locate(None, tmp_path)
    assert location.file is not None
    create_private_file(location.file)
    found = Readers(location, 1, last_reads_seconds=0.2)
    yield found
    await found.aclose()


async def test_whoever_waits_is_served_in_order_and_who_gave_up_is_not_read_for(readers: Readers) -> None:
    go = threading.Event()
    served: list[int] = []

    def noting(number: int) -> Callable[[sa.Connection], None]:
        return lambda _connection: served.append(number)

    busy = [asyncio.create_task(readers.run(lambda _c: go.wait(30))) for _ in range(READERS)]
    await asyncio.sleep(0)
    line = [asyncio.create_task(readers.run(noting(number))) for number in range(20)]
    await asyncio.sleep(0)
    line[7].cancel()
    await asyncio.wait({line[7]})
    go.set()
    await asyncio.gather(*busy, *line[:7], *line[8:])
    assert sorted(served) == [number for number in range(20) if number != 7]
    assert all(abs(served.index(number) - place) < READERS for place, number in enumerate(sorted(served)))


async def test_a_read_that_does_not_end_is_interrupted_at_the_end(readers: Readers) -> None:
    begun = threading.Event()

    def read(connection: sa.Connection) -> None:
        begun.set()
        connection.execute(sa.text(_ENDLESS))

    reading = asyncio.create_task(readers.run(read))
    await eventually(begun.is_set)
    # the statement itself has to run: before it does there is nothing to interrupt
    await asyncio.to_thread(time.sleep, 0.05)
    await readers.aclose()
    with pytest.raises(StoreUnavailable):
        await reading
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store-reader")]


async def test_nothing_can_be_written(readers: Readers) -> None:
    with pytest.raises(StoreUnavailable):
        await readers.run(lambda connection: connection.execute(sa.text("CREATE TABLE t (x)")))
