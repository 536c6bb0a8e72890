"""The lease on the pool, in PostgreSQL: who owns it, until when, and who stands by.

Every question is one statement that commits by itself, and all times are of
the database's clock: replicas whose clocks differ agree on them.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from pool.errors import BadRequest, StoreUnavailable
from pool.store.engines import locate, server_options, writing_engine
from pool.store.fence import POOL
from pool.store.migrate import migrate
from pool.store.trouble import refusal

T = TypeVar("T")

_LAST_SECONDS = 6.0
_NOW = "extract(epoch from clock_timestamp())::float8"

# A lease that lasts for longer than any was given is of a clock that has gone back since.
_IS_FREE = f"(pool_lease.expires_at <= {_NOW} OR pool_lease.expires_at > {_NOW} + 2 * pool_lease.seconds)"
_TAKE = (
    "INSERT INTO pool_lease (name, holder, url, epoch, seconds, expires_at) "
    f"VALUES (%(name)s, %(holder)s, %(url)s, 1, %(seconds)s, {_NOW} + %(seconds)s) "
    "ON CONFLICT (name) DO UPDATE SET holder = %(holder)s, url = %(url)s, epoch = pool_lease.epoch + 1, "
    f"seconds = %(seconds)s, expires_at = {_NOW} + %(seconds)s WHERE {_IS_FREE} RETURNING epoch"
)
_IS_MINE = "name = %(name)s AND holder = %(holder)s AND epoch = %(epoch)s"
_RENEW = (
    f"UPDATE pool_lease SET expires_at = {_NOW} + %(seconds)s "
    f"WHERE {_IS_MINE} AND expires_at > {_NOW} RETURNING epoch"
)
_GIVE_BACK = f"UPDATE pool_lease SET expires_at = {_NOW} WHERE {_IS_MINE}"
_LOOK = (
    f"SELECT holder, url, epoch, expires_at - {_NOW} AS left, {_IS_FREE} AS is_free "
    "FROM pool_lease WHERE name = %(name)s"
)
_STAND_BY = (
    f"INSERT INTO replicas (holder, url, seen_at) VALUES (%(holder)s, %(url)s, {_NOW}) "
    f"ON CONFLICT (holder) DO UPDATE SET url = %(url)s, seen_at = {_NOW}"
)
_LEAVE = f"DELETE FROM replicas WHERE holder = %(holder)s OR seen_at < {_NOW} - 86400"
_OTHERS = (
    "SELECT count(*) FROM replicas WHERE holder <> %(holder)s "
    f"AND seen_at BETWEEN {_NOW} - %(seconds)s AND {_NOW} + %(seconds)s"
)
_EXISTS = "SELECT to_regclass('pool_lease') IS NOT NULL AND to_regclass('replicas') IS NOT NULL"


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Who has the lease, or had it last. ``seconds_left`` is not above zero for one that is over."""

    holder: str
    url: str
    epoch: int
    seconds_left: float
    is_free: bool


class PoolLease:
    """One replica's hand on the lease. ``open`` first, ``aclose`` last.

    ``holder`` is unique to this process image, ``url`` is where other replicas
    reach it. Every method raises ``StoreUnavailable`` when the database does
    not answer. Raises ``BadRequest`` for a database that is no PostgreSQL.
    """

    def __init__(
        self, storage_url: str | None, data_dir: Path, *, holder: str, url: str, lease_seconds: float
    ) -> None:
        self._location = locate(storage_url, data_dir)
        if self._location.file is not None:
            raise BadRequest("replicas need PostgreSQL: storage.url must begin with postgresql+psycopg://")
        self.holder = holder
        self._given = {"name": POOL, "holder": holder, "url": url, "seconds": lease_seconds}
        self._answer_seconds = max(1.0, lease_seconds / 3)
        self._late: set[asyncio.Task[Any]] = set()
        try:
            self._line = self._new_line()
        except ImportError as error:
            raise BadRequest(
                "replicas need the driver of PostgreSQL: install claude-pool[postgres]"
            ) from error

    async def open(self) -> None:
        """Connect, and make the tables where there are none; whoever owns migrates what is there already."""
        if not await self._value(_EXISTS):
            await asyncio.to_thread(self._make_tables)

    def _make_tables(self) -> None:
        try:
            engine = writing_engine(self._location, 0)
            try:
                migrate(engine, None)
            finally:
                engine.dispose()
        except SQLAlchemyError as error:
            raise refusal(error) from error

    async def aclose(self) -> None:
        """Disconnect. Safe to call again."""
        await self._line.close()
        if self._late:
            await asyncio.wait(self._late, timeout=_LAST_SECONDS)

    async def look(self) -> LeaseRow | None:
        """The lease as it is now; None when nobody ever had it."""
        row = await self._row(_LOOK)
        if row is None:
            return None
        return LeaseRow(row["holder"], row["url"], row["epoch"], row["left"], row["is_free"])

    async def take(self) -> int | None:
        """Take it if it is free: the new epoch, higher than all before; None when somebody has it."""
        row = await self._row(_TAKE)
        return None if row is None else int(row["epoch"])

    async def renew(self, epoch: int) -> bool:
        """Have it for its full time from now; False when it is over or another's."""
        return await self._row(_RENEW, epoch=epoch) is not None

    async def give_back(self, epoch: int) -> None:
        """Let another one take it at once. Nothing happens when it is another's already."""
        await self._run(_GIVE_BACK, epoch=epoch)

    async def stand_by(self) -> None:
        """Say that this replica would take the lease."""
        await self._run(_STAND_BY)

    async def leave(self) -> None:
        """Say it no more; what was not heard of for a day is forgotten with it."""
        await self._run(_LEAVE)

    async def others(self) -> int:
        """How many other replicas stood by within the last lease's time."""
        return int(await self._value(_OTHERS))

    async def _value(self, statement: str) -> Any:
        row = await self._row(statement)
        return None if row is None else next(iter(row.values()))

    async def _row(self, statement: str, **more: Any) -> Mapping[str, Any] | None:
        rows = await self._run(statement, **more)
        return rows[0] if rows else None

    async def _run(self, statement: str, **more: Any) -> Sequence[Mapping[str, Any]]:
        asking = self._keep(self._line.ask(statement, self._given | more))
        try:
            done, _ = await asyncio.wait({asking}, timeout=self._answer_seconds)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        if not done:
            # the driver asks the server to end it, and waits for that: its caller must not
            asking.cancel()
            self._line = self._new_line()
            raise StoreUnavailable("the database does not answer", retry_after_seconds=1)
        return asking.result()

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="lease-statement")
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return task

    def _new_line(self) -> _Line:
        milliseconds = int(self._answer_seconds * 1000)
        _words, given = self._location.url.get_dialect()().create_connect_args(self._location.url)
        return _Line(
            {
                **given,
                "connect_timeout": max(2, int(self._answer_seconds)),
                # a half-open connection must not cost a whole lease
                "tcp_user_timeout": milliseconds,
                **server_options(self._location.url, f"statement_timeout={milliseconds}"),
            }
        )


class _Line:
    """A connection, made when it is needed and after each trouble. One question at a time."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._psycopg: Any = importlib.import_module("psycopg")
        self._rows: Any = importlib.import_module("psycopg.rows")
        self._arguments = arguments
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def ask(self, statement: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The rows. Raises ``StoreUnavailable``."""
        async with self._turn:
            try:
                for is_last in (self._connection is None, True):
                    try:
                        return await self._ask(statement, values)
                    except self._psycopg.OperationalError:
                        # what lay idle may be closed by a server that was started anew
                        if is_last:
                            raise
            except self._psycopg.Error as error:
                text = f"the database cannot be used now: {type(error).__name__}"
                raise StoreUnavailable(text, retry_after_seconds=1) from error
        raise AssertionError("the last attempt answers or raises")

    async def _ask(self, statement: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        if self._connection is None:
            self._connection = await self._psycopg.AsyncConnection.connect(
                autocommit=True, row_factory=self._rows.dict_row, **self._arguments
            )
        try:
            cursor = await self._connection.execute(statement, values)
            rows: list[Mapping[str, Any]] = await cursor.fetchall() if cursor.description else []
        except BaseException:
            await self.close()
            raise
        return rows

    async def close(self) -> None:
        """Safe to call again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
