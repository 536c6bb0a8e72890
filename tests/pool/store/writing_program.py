"""Commits turns with their events until it is killed; prints the number of each stored turn."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pool.model import Cursor
from pool.store.base import AppendEvents, LogEntry, PutSession, PutTurn
from pool.store.sql import SqlStore
from tests.pool.store.records import ALICE, a_session, a_turn


async def main(data_dir: Path) -> None:
    store = SqlStore(None, data_dir)
    await store.open()
    if await store.get_session(ALICE) is None:
        await store.commit([PutSession(a_session())])
    number = await store.next_turn_number(ALICE)

    async def one(number: int) -> None:
        log = [LogEntry(Cursor(1, number * 10 + part, 0), b"x" * 400) for part in range(5)]
        await store.commit([PutTurn(a_turn(number=number)), AppendEvents(ALICE, log)])
        print(number, flush=True)

    while True:
        await asyncio.gather(*(one(number + part) for part in range(20)))
        number += 20


asyncio.run(main(Path(sys.argv[1])))
