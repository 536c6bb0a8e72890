"""Looks for rows that cannot be read, beside a server or without one; reads only."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from pool.store import queries
from pool.store.base import SpoiltRow
from pool.store.database import Database
from pool.store.reading import instances_in, permissions_in, sessions_in, turns_in
from pool.store.tables import sessions

_SLICE_ROWS = 500


async def find_spoilt_rows(data_dir: Path, storage_url: str | None) -> list[SpoiltRow]:
    """Every session, and every instance, turn and approval that has not ended, that cannot be read.

    Raises ``StoreUnavailable`` where there is no database of this program's schema.
    """
    found: list[SpoiltRow] = []
    database = Database(storage_url, data_dir)
    await database.open_for_reading()
    try:
        last = -1
        while True:
            some = sa.select(sessions).where(sessions.c.id > last).order_by(sessions.c.id)
            rows = await database.fetch(some.limit(_SLICE_ROWS))
            if not rows:
                break
            last = rows[-1]["id"]
            list(sessions_in(rows, found.append))
        list(instances_in(await database.fetch(queries.open_instances()), found.append))
        list(turns_in(await database.fetch(queries.open_turns()), found.append))
        list(permissions_in(await database.fetch(queries.open_permissions()), found.append))
    finally:
        await database.aclose()
    return found
