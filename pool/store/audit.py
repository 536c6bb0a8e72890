"""The audit log as it is kept: appended to, read in pages, verified, pruned with a checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pool.audit.records import AuditEntry, AuditRecord, Place, told
from pool.audit.verifying import PRUNED, Verdict, Verifier
from pool.caller import SERVER
from pool.clock import Clock, SystemClock
from pool.errors import StoreUnavailable
from pool.store.audit_head import HeadFile
from pool.store.database import Database
from pool.store.engines import locate
from pool.store.purge import delete_in_slices
from pool.store.tables import audit
from pool.store.trouble import refusal

_log = logging.getLogger(__name__)

_PAGE_ROWS = 5000
# The hashes as they lie there: a text in their place must be found, not stumbled over.
_COLUMNS = (
    *(audit.c[name] for name in ("seq", "at", "action", "actor", "user_id", "facts")),
    *(sa.type_coerce(audit.c[name], sa.types.NullType()).label(name) for name in ("previous", "hash")),
)


class AuditLog:
    """The log of an open ``Database``; has nothing to close.

    Every method raises ``StoreUnavailable`` when the database does not work:
    what cannot be written down is not done.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    @property
    def trouble(self) -> str | None:
        """Why a cut tail would not be found, if so."""
        return self._database.audit.trouble

    async def append(self, *entries: AuditEntry) -> None:
        """Store the entries, in order; returns when they are."""
        await self._database.submit(lambda connection: self._database.audit.append(connection, entries))

    async def tell(self, action: str, *, user_id: str | None = None, **facts: Any) -> None:
        """Store one deed of whoever asks now; see ``pool.audit.records.told``."""
        await self.append(told(action, self._clock.wall(), user_id=user_id, **facts))

    async def page(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        user_id: str | None = None,
        action: str | None = None,
        newest_first: bool = False,
        limit: int = 100,
    ) -> Sequence[AuditRecord]:
        """Records with after < seq < before. ``user_id``: what was done to or by this user."""
        statement = _records(after, before, user_id, action, newest_first, limit)
        return [_record(row) for row in await self._database.fetch(statement)]

    async def prune(self, before: float) -> int:
        """Remove the records of the time before ``before`` (seconds since 1970); returns how many.

        First a checkpoint is stored: up to which record, and its hash. Then
        they go, in slices. What is left can be verified at any moment.
        """
        await self._log_end()
        young = sa.select(sa.func.min(audit.c.seq)).where(audit.c.at >= round(before * 1000))
        first_kept = await self._database.fetch_value(young)
        condition = audit.c.seq < first_kept if first_kept is not None else sa.true()
        last = await self._database.fetch_one(
            sa.select(audit.c.seq, audit.c.hash).where(condition).order_by(audit.c.seq.desc()).limit(1)
        )
        if last is None:
            return 0
        through, digest = int(last["seq"]), bytes(last["hash"]).hex()
        await self.append(told(PRUNED, self._clock.wall(), by=SERVER, through=through, hash=digest))
        return await delete_in_slices(self._database, audit, audit.c.seq <= last["seq"])

    async def _log_end(self) -> None:
        """Where logs are shipped elsewhere, this is an end that nobody here can rewrite."""
        newest = await self.page(newest_first=True, limit=1)
        if newest:
            _log.info("audit log", extra={"end": str(Place(newest[0].seq, newest[0].hash))})


async def verify(
    data_dir: Path, url: str | None, expected: Sequence[tuple[str, Place]] = (), *, is_alone: bool = True
) -> Verdict:
    """Read the whole log and say whether it is whole; with a server running or not.

    Of several replicas each has noted only how far itself came: more than that may be another's.
    ``expected`` are places that somebody wrote down elsewhere. Writes
    nothing, migrates nothing. Raises ``StoreUnavailable``.
    """
    return await asyncio.to_thread(_verify, data_dir, url, expected, is_alone)


def _verify(
    data_dir: Path, url: str | None, expected: Sequence[tuple[str, Place]], is_alone: bool
) -> Verdict:
    problems: list[str] = []
    file = HeadFile(data_dir)
    try:
        # Before and after the log is looked at: a running server moves it.
        first = file.read()
        with snapshot(data_dir, url) as pages:
            rows = next(pages, [])
            second = file.read()
            anchors = [*expected, *([("the head file", first.certain)] if first is not None else [])]
            verifier = Verifier(anchors, second.latest if second is not None and is_alone else None)
            while rows:
                verifier.take(rows)
                rows = next(pages, [])
    except (OSError, ValueError) as error:
        raise StoreUnavailable(f"the head file of the audit log cannot be used: {error}") from error
    verdict = verifier.verdict()
    if second is None and verdict.records:
        problems.append("the head file is missing: a cut tail could not be found")
    return Verdict((*problems, *verdict.problems), verdict.records, verdict.first, verdict.end)


@contextlib.contextmanager
def snapshot(
    data_dir: Path, url: str | None, *, after: int = 0, user_id: str | None = None
) -> Iterator[Iterator[list[AuditRecord]]]:
    """Pages of the log as it is at one moment, oldest first, on a connection of its own that cannot write.

    Blocking; memory is bounded by a page. Raises ``StoreUnavailable``.
    """
    location = locate(url, data_dir)
    if location.file is not None and not location.file.exists():
        raise StoreUnavailable(f"there is no database {location.file}")
    engine = sa.create_engine(location.url, poolclass=sa.NullPool, hide_parameters=True)
    if location.file is None:
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with engine.connect() as connection:
            if location.file is not None:
                _read_anything(connection)
                connection.exec_driver_sql("PRAGMA query_only=ON")
                connection.exec_driver_sql("BEGIN")
            yield _pages(connection, after, user_id)
    except sa.exc.SQLAlchemyError as error:
        raise refusal(error) from error
    finally:
        engine.dispose()


def _read_anything(connection: sa.Connection) -> None:
    """A text that is none, which only somebody else can have put there, is read and found wrong."""
    raw: Any = connection.connection.dbapi_connection
    raw.text_factory = lambda data: data.decode("utf-8", "surrogateescape")


def _pages(connection: sa.Connection, after: int, user_id: str | None) -> Iterator[list[AuditRecord]]:
    # A number below the first one is nobody's, but must be seen.
    last = after if after else -(1 << 31)
    while True:
        statement = _records(last, None, user_id, None, False, _PAGE_ROWS)
        page = [_record(row) for row in connection.execute(statement).mappings()]
        if not page:
            return
        yield page
        last = page[-1].seq


def _records(
    after: int, before: int | None, user_id: str | None, action: str | None, newest_first: bool, limit: int
) -> sa.Select[Any]:
    window = [audit.c.seq > after]
    if before is not None:
        window.append(audit.c.seq < before)
    if action is not None:
        window.append(audit.c.action == action)
    order = audit.c.seq.desc() if newest_first else audit.c.seq
    if user_id is not None:
        # Each half by its own index and no longer than the page.
        halves = [
            sa.select(audit.c.seq).where(column == user_id, *window).order_by(order).limit(limit).subquery()
            for column in (audit.c.user_id, audit.c.actor)
        ]
        window = [audit.c.seq.in_(sa.union(*(sa.select(half.c.seq) for half in halves)))]
    return sa.select(*_COLUMNS).where(*window).order_by(order).limit(limit)


def _record(row: sa.RowMapping) -> AuditRecord:
    return AuditRecord(
        seq=row["seq"],
        at=row["at"],
        action=row["action"],
        actor=row["actor"],
        user_id=row["user_id"],
        facts=row["facts"],
        previous=_bytes(row["previous"]),
        hash=_bytes(row["hash"]),
    )


def _bytes(value: Any) -> bytes:
    """Somebody may have put text there; then it is no hash."""
    return bytes(value) if isinstance(value, bytes | memoryview) else repr(value).encode()
