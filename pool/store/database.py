"""One database: the writer, the readers and the way they are opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pool.errors import StoreUnavailable
from pool.store.audit_chain import AuditChain
from pool.store.engines import create_private_file, locate, writing_engine
from pool.store.fence import Fence, refuse_beside_replicas
from pool.store.migrate import HEAD, migrate
from pool.store.readers import Readers
from pool.store.tables import alembic_version
from pool.store.writer import T, Work, Writer


class Database:
    """Owns the connections. ``open`` before any other call, ``aclose`` at the end.

    A commit that meets a lock or a lost server is tried again for
    ``patience_seconds``, each time waiting ``busy_timeout_seconds`` for a lock.
    ``audit`` is for work that the writer does. With a ``fence`` nothing is
    committed any more once its epoch is not in force.
    """

    def __init__(
        self,
        url: str | None,
        data_dir: Path,
        *,
        busy_timeout_seconds: float = 5,
        patience_seconds: float = 15,
        fence: Fence | None = None,
    ) -> None:
        self._location = locate(url, data_dir)
        self._busy_timeout_seconds = busy_timeout_seconds
        self._patience_seconds = patience_seconds
        self._fence = fence
        self.audit = AuditChain(data_dir, is_alone=fence is None)
        self._writer: Writer | None = None
        self._readers: Readers | None = None

    async def open(self) -> None:
        """Migrate and connect. Raises ``StoreUnavailable``; then nothing stays open."""
        file = self._location.file
        try:
            if file is not None:
                await asyncio.to_thread(create_private_file, file)
            settings = () if self._fence is None else (self._fence.idle_setting,)
            engine = writing_engine(self._location, self._busy_timeout_seconds, *settings)
        except (OSError, ImportError) as error:
            raise StoreUnavailable(f"the database cannot be opened: {error}") from error
        writer = Writer(
            engine,
            self._prepare,
            fence=self._fence.check if self._fence is not None else None,
            attendant=self.audit,
            patience_seconds=self._patience_seconds,
        )
        await writer.start()
        self._readers = Readers(self._location, self._busy_timeout_seconds)
        self._writer = writer

    def _prepare(self, engine: sa.Engine) -> None:
        migrate(engine, self._location.file)
        if self._fence is None:
            refuse_beside_replicas(engine)

    async def open_for_reading(self) -> None:
        """Connect without a writer, beside a server that runs. Raises ``StoreUnavailable``.

        Nothing is migrated: the schema must be this program's.
        """
        file = self._location.file
        if file is not None and not file.exists():
            raise StoreUnavailable("there is no database yet")
        self._readers = Readers(self._location, self._busy_timeout_seconds)
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
        readers, self._readers = self._readers, None
        if self._writer is not None:
            await self._writer.aclose()
        if readers is not None:
            await readers.aclose()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have ``work`` done by the writer; see ``Writer.submit``."""
        if self._writer is None:
            raise StoreUnavailable("the store is not open")
        return self._writer.submit(work)

    async def read(self, work: Work[T]) -> T:
        """What ``work`` reads, in one go; sees every commit that has returned. See ``Readers.run``."""
        if self._readers is None:
            raise StoreUnavailable("the store is not open")
        return await self._readers.run(work)

    async def fetch(self, statement: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        """All rows of a select."""
        return await self.read(lambda connection: connection.execute(statement).mappings().all())

    async def fetch_one(self, statement: sa.Select[Any]) -> sa.RowMapping | None:
        """The first row of a select, or None."""
        rows = await self.fetch(statement)
        return rows[0] if rows else None

    async def fetch_value(self, statement: sa.Select[Any]) -> Any:
        """The first column of the first row of a select, or None."""
        row = await self.fetch_one(statement)
        return None if row is None else next(iter(row.values()))
