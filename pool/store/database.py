"""One database: the writer, the readers and the way they are opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from pool.errors import StoreUnavailable
from pool.store.audit_chain import AuditChain
from pool.store.engines import create_private_file, locate, reading_engine, writing_engine
from pool.store.migrate import HEAD, migrate
from pool.store.tables import alembic_version
from pool.store.trouble import refusal
from pool.store.writer import T, Work, Writer

_LAST_READS_SECONDS = 10


class Database:
    """Owns the connections. ``open`` before any other call, ``aclose`` at the end.

    A commit that meets a lock or a lost server is tried again for
    ``patience_seconds``, each time waiting ``busy_timeout_seconds`` for a lock.
    ``audit`` is for work that the writer does.
    """

    def __init__(
        self,
        url: str | None,
        data_dir: Path,
        *,
        busy_timeout_seconds: float = 5,
        patience_seconds: float = 15,
    ) -> None:
        self._location = locate(url, data_dir)
        self._busy_timeout_seconds = busy_timeout_seconds
        self._patience_seconds = patience_seconds
        self.audit = AuditChain(data_dir)
        self._writer: Writer | None = None
        self._reader: AsyncEngine | None = None
        self._reads: set[asyncio.Task[Sequence[sa.RowMapping]]] = set()

    async def open(self) -> None:
        """Migrate and connect. Raises ``StoreUnavailable``; then nothing stays open."""
        file = self._location.file
        try:
            if file is not None:
                await asyncio.to_thread(create_private_file, file)
            engine = writing_engine(self._location, self._busy_timeout_seconds)
        except (OSError, ImportError) as error:
            raise StoreUnavailable(f"the database cannot be opened: {error}") from error
        writer = Writer(
            engine,
            lambda opened: migrate(opened, file),
            attendant=self.audit,
            patience_seconds=self._patience_seconds,
        )
        await writer.start()
        self._reader = reading_engine(self._location, self._busy_timeout_seconds)
        self._writer = writer

    async def open_for_reading(self) -> None:
        """Connect without a writer, beside a server that runs. Raises ``StoreUnavailable``.

        Nothing is migrated: the schema must be this program's.
        """
        file = self._location.file
        if file is not None and not file.exists():
            raise StoreUnavailable("there is no database yet")
        self._reader = reading_engine(self._location, self._busy_timeout_seconds)
        try:
            found = await self.fetch_value(sa.select(alembic_version.c.version_num))
            if found != HEAD:
                raise StoreUnavailable(
                    f"the database has schema {found}, this program {HEAD}: start the server with it first"
                )
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Commit what is queued, let reads end and disconnect. Safe to call again."""
        reader, self._reader = self._reader, None
        if self._writer is not None:
            await self._writer.aclose()
        if reader is not None:
            # A connection that is in use would outlive the pool that is to close it.
            if self._reads:
                _ended, late = await asyncio.wait(self._reads, timeout=_LAST_READS_SECONDS)
                for read in late:
                    read.cancel()
                if late:
                    await asyncio.wait(late, timeout=1)
            await reader.dispose()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have ``work`` done by the writer; see ``Writer.submit``."""
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._writer.submit(work)

    async def fetch(self, statement: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        """All rows of a select; sees every commit that has returned.

        A caller who is cancelled waits no longer; the read goes on for ten seconds at most.
        """
        if self._reader is None:
            raise StoreUnavailable("the store is not open")
        # A read that is cancelled costs its connection, with the thread, and SQLite keeps the
        # descriptor of the file for as long as any other connection is open.
        read = asyncio.create_task(_read(self._reader, statement), name="store-read")
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)
        try:
            return await asyncio.shield(read)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if read.cancelled() and caller is not None and not caller.cancelling():
                # it was still under way when the store was closed
                raise StoreUnavailable("the store is closed") from None
            given_up = asyncio.get_running_loop().call_later(_LAST_READS_SECONDS, read.cancel)
            read.add_done_callback(lambda _read: given_up.cancel())
            raise

    async def fetch_one(self, statement: sa.Select[Any]) -> sa.RowMapping | None:
        """The first row of a select, or None."""
        rows = await self.fetch(statement)
        return rows[0] if rows else None

    async def fetch_value(self, statement: sa.Select[Any]) -> Any:
        """The first column of the first row of a select, or None."""
        row = await self.fetch_one(statement)
        return None if row is None else next(iter(row.values()))


async def _read(reader: AsyncEngine, statement: sa.Select[Any]) -> Sequence[sa.RowMapping]:
    try:
        async with reader.connect() as connection:
            result: sa.CursorResult[Any] = await connection.execute(statement)
            return result.mappings().all()
    except SQLAlchemyError as error:
        raise refusal(error) from error
