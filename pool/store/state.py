"""A small key-value store for each user, for what a client wants to remember."""

from __future__ import annotations

import sqlalchemy as sa

from pool.clock import Clock, SystemClock
from pool.errors import QuotaExceeded, TooLarge
from pool.names import check_name
from pool.store.database import Database
from pool.store.tables import state

MAX_KEYS = 1000
MAX_VALUE_BYTES = 65536


class UserState:
    """Values are text (the caller's JSON), keys follow ``pool.names``; a user sees only their own.

    Every method raises ``InvalidName`` for a bad key and ``StoreUnavailable``
    when the database does not work.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def get(self, user_id: str, key: str) -> str | None:
        """The value, or None."""
        value = await self._database.fetch_value(sa.select(state.c.value).where(*_place(user_id, key)))
        return None if value is None else str(value)

    async def keys(self, user_id: str) -> list[str]:
        """All keys of a user, sorted."""
        statement = sa.select(state.c.key).where(state.c.user_id == user_id).order_by(state.c.key)
        return [str(row["key"]) for row in await self._database.fetch(statement)]

    async def put(self, user_id: str, key: str, value: str) -> None:
        """Set a value. ``TooLarge`` above ``MAX_VALUE_BYTES``, ``QuotaExceeded`` above ``MAX_KEYS``."""
        place = _place(user_id, key)
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise TooLarge(f"a value has at most {MAX_VALUE_BYTES} bytes")
        columns = {"value": value, "updated_at": self._clock.wall()}

        def put(connection: sa.Connection) -> None:
            if connection.execute(sa.update(state).where(*place).values(columns)).rowcount:
                return
            own = sa.select(sa.func.count()).select_from(state).where(state.c.user_id == user_id)
            if connection.execute(own).scalar_one() >= MAX_KEYS:
                raise QuotaExceeded(f"a user has at most {MAX_KEYS} keys; delete some")
            connection.execute(sa.insert(state), {"user_id": user_id, "key": key, **columns})

        await self._database.submit(put)

    async def delete(self, user_id: str, key: str) -> bool:
        """Remove a key; False if there was none."""
        statement = sa.delete(state).where(*_place(user_id, key))
        return await self._database.submit(lambda connection: connection.execute(statement).rowcount) == 1


def _place(user_id: str, key: str) -> tuple[sa.ColumnElement[bool], ...]:
    return state.c.user_id == user_id, state.c.key == check_name(key, "key")
