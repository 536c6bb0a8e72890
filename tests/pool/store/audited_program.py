"""Commits turns, each with its audit record, until it is killed; prints the number of each stored turn."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pool.audit.records import told
from pool.store.base import AppendAudit, PutSession, PutTurn
from pool.store.sql import SqlStore
from tests.pool.store.records import ALICE, a_session, a_turn


async def main(data_dir: Path) -> None:
    store = SqlStore(None, data_dir)
    await store.open()
    if await store.get_session(ALICE) is None:
        await store.commit([PutSession(a_session())])
    number = await store.next_turn_number(ALICE)

    async def one(number: int) -> None:
        turn = a_turn(number=number)
        await store.commit([PutTurn(turn), AppendAudit([told("prompt", 1.0, turn=turn.turn_id)])])
        print(number, flush=True)

    while True:
        await asyncio.gather(*(one(number + part) for part in range(5)))
        number += 5


asyncio.run(main(Path(sys.argv[1])))
