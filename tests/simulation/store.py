"""The real store on a simulated loop: SQLite without threads; a crash loses what was not committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from pool.errors import StoreUnavailable
from pool.store.database import Database
from pool.store.engines import DATABASE_NAME, create_private_file, locate, writing_engine
from pool.store.migrate import migrate
from pool.store.trouble import refusal
from pool.store.writer import T, Work, Writer, _Job, _resolve
from tests.simulation.loop import SimulatedLoop


def this_loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop


class SimulatedWriter(Writer):
    """Group commit as it is, by the loop and not by a thread: what is queued is committed a while later."""

    async def start(self) -> None:
        self._is_due = False
        self._ended = this_loop().create_future()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        loop = this_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closing.is_set():
            raise StoreUnavailable("the store is closed")
        self._queue.append(_Job(work, future, loop))
        if not self._is_due:
            self._is_due = True
            loop.call_later(loop.latency(), self._commit)
        return future

    def _commit(self) -> None:
        self._is_due = False
        group = list(self._queue)
        self._queue.clear()
        if group:
            _resolve(list(zip(group, self._settle(group), strict=True)))

    def lose(self) -> None:
        """The server is killed: what is queued is never committed, and nobody hears of it."""
        self._queue.clear()
        self._closing.set()

    async def aclose(self) -> None:
        self._closing.set()
        self._commit()
        self._engine.dispose()
        if self._attendant is not None:
            self._attendant.close()


class SimulatedDatabase(Database):
    """``Database`` with that writer, and reads that take their time."""

    async def open(self) -> None:
        file = self._location.file
        assert file is not None
        if not file.exists():
            create_private_file(file)
            file.write_bytes(_empty_database())
        self._engine = writing_engine(self._location, 1)

        @sa.event.listens_for(self._engine, "connect")
        def _on_connect(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")

        self._writer = SimulatedWriter(self._engine, lambda _engine: None, attendant=self.audit)
        await self._writer.start()

    async def aclose(self) -> None:
        if self._writer is not None:
            await self._writer.aclose()

    def lose(self) -> None:
        """See ``SimulatedWriter.lose``."""
        assert isinstance(self._writer, SimulatedWriter)
        self._writer.lose()

    async def fetch(self, statement: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        if self._writer is None or self._writer._closing.is_set():
            raise StoreUnavailable("the store is closed")
        await asyncio.sleep(this_loop().latency())
        if self._writer._closing.is_set():
            raise StoreUnavailable("the store is closed")
        try:
            with self._engine.connect() as connection:
                return connection.execute(statement).mappings().all()
        except sa.exc.SQLAlchemyError as error:
            raise refusal(error) from error


@cache
def _empty_database() -> bytes:
    """One that was migrated, once for all worlds."""
    with TemporaryDirectory(prefix="cp-") as directory:
        file = Path(directory, DATABASE_NAME)
        engine = writing_engine(locate(None, Path(directory)), 1)
        migrate(engine, file)
        # the last connection to be closed puts everything into the one file
        engine.dispose()
        return file.read_bytes()
