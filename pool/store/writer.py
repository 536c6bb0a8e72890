"""The one thread that writes the database: group commit over a sync engine.

Callers give the writer pieces of work (functions of a connection) in order.
It takes all that are queued at once, runs them in one transaction with a
savepoint around each, commits, and then tells each caller its own result, in
order. When it is idle a piece of work starts at once; what arrives while a
transaction is under way shares the next one. Whatever the database does, the
thread survives it: its callers get ``StoreUnavailable``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pool.errors import PoolError, StoreUnavailable
from pool.store.trouble import Trouble, is_trouble, refusal, trouble_of

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Attendant(Protocol):
    """Is told of every transaction, in the writer's thread."""

    def before_commit(self, connection: sa.Connection) -> None:
        """All work is done and will be committed; a retry tells it again."""

    def rolled_back(self) -> None:
        """Some of the work, or all of it, was taken back."""

    def after_commit(self) -> None:
        """It is committed."""

    def close(self) -> None:
        """There will be no further transaction."""


class Writer:
    """Owns the writing engine and its thread. ``start`` it once, ``aclose`` it once.

    ``prepare`` runs first, in the thread (migrations). ``capacity`` bounds
    the pieces of work that wait; a transaction that met a lock or a lost
    connection is tried again until ``patience_seconds`` have passed.
    ``fence`` is the last to look at a transaction, and may raise what ends it;
    ``attendant`` is told of each.
    """

    def __init__(
        self,
        engine: sa.Engine,
        prepare: Callable[[sa.Engine], None],
        *,
        fence: Callable[[sa.Connection], None] | None = None,
        attendant: Attendant | None = None,
        capacity: int = 10_000,
        patience_seconds: float = 15,
    ) -> None:
        self._engine = engine
        self._prepare = prepare
        self._fence = fence
        self._attendant = attendant
        self._capacity = capacity
        self._patience_seconds = patience_seconds
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start the thread and wait until ``prepare`` is done; raises what it raised."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        self._ended = loop.create_future()
        self._thread = threading.Thread(
            target=self._run,
            args=(_Job(_nothing, ready, loop), _Job(_nothing, self._ended, loop)),
            name="store-writer",
            daemon=True,
        )
        self._thread.start()
        try:
            await asyncio.shield(ready)
        except BaseException:
            await self.aclose()
            raise

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queue ``work``; the future has its result once the transaction is committed.

        Order of calls is order of effect. Cancelling the future does not take
        the work back. The future fails with what ``work`` raised, or with
        ``StoreUnavailable``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._wake:
            if self._closing.is_set() or self._thread is None:
                raise StoreUnavailable("the store is closed")
            if len(self._queue) >= self._capacity:
                raise StoreUnavailable(
                    "the database does not keep up; come back later", retry_after_seconds=5
                )
            self._queue.append(_Job(work, future, loop))
            self._wake.notify()
        return future

    async def aclose(self) -> None:
        """Commit what is queued, end the thread, disconnect. Safe to call again."""
        thread, ended = self._thread, self._ended
        if thread is None or ended is None:
            return
        with self._wake:
            self._closing.set()
            self._wake.notify()
        await asyncio.shield(ended)
        thread.join()

    # --- in the thread ------------------------------------------------------------------

    def _run(self, ready: _Job, ended: _Job) -> None:
        try:
            self._prepare(self._engine)
        except Exception as error:  # noqa: BLE001 - whatever it is, open() raises it
            _tell([(ready, _Outcome(error=_typed(error)))])
        else:
            _tell([(ready, _Outcome())])
            self._serve()
        finally:
            self._engine.dispose()
            if self._attendant is not None:
                self._attendant.close()
            _tell([(ended, _Outcome())])

    def _serve(self) -> None:
        while group := self._take():
            try:
                outcomes = self._settle(group)
            except Exception as error:  # noqa: BLE001 - the thread must survive its own defects too
                _log.exception("store.writer_defect")
                outcomes = [_Outcome(error=_typed(error))] * len(group)
            _tell(list(zip(group, outcomes, strict=True)))

    def _take(self) -> list[_Job]:
        """All that is queued, waiting for the first; empty when closed and done."""
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closing.is_set())
            group = list(self._queue)
            self._queue.clear()
        return group

    def _settle(self, group: Sequence[_Job]) -> list[_Outcome]:
        try:
            return self._persist(group)
        except StoreUnavailable as error:
            return [_Outcome(error=error)] * len(group)
        except SQLAlchemyError as error:
            trouble = trouble_of(error)
            if trouble is Trouble.HERE and len(group) > 1:
                # One of them may be too large for a disk that has room for the others.
                return [outcome for job in group for outcome in self._settle([job])]
            typed = refusal(error)
            facts = {"trouble": trouble.value, "commits": len(group), **typed.details}
            _log.warning("store.write_failed: %s", typed.message, extra=facts)
            return [_Outcome(error=refusal(error)) for _ in group]

    def _persist(self, group: Sequence[_Job]) -> list[_Outcome]:
        """One transaction, tried again while the trouble may pass by itself."""
        deadline = time.monotonic() + self._patience_seconds
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._transact(group)
            except DBAPIError as error:
                left = deadline - time.monotonic()
                if trouble_of(error) is not Trouble.PASSING or left <= 0 or self._closing.is_set():
                    raise
            self._closing.wait(min(pause_seconds, left))
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _transact(self, group: Sequence[_Job]) -> list[_Outcome]:
        with self._engine.connect() as connection:
            transaction = connection.begin()
            try:
                outcomes = [_perform(connection, job.work, alone=len(group) == 1) for job in group]
                if self._attendant is not None and any(outcome.error is not None for outcome in outcomes):
                    self._attendant.rolled_back()
                if len(outcomes) == 1 and outcomes[0].error is not None:
                    transaction.rollback()
                    return outcomes
                if self._fence is not None:
                    self._fence(connection)
                if self._attendant is not None:
                    self._attendant.before_commit(connection)
                _commit(transaction)
            except BaseException:
                if self._attendant is not None:
                    self._attendant.rolled_back()
                _abandon(connection, transaction)
                raise
        if self._attendant is not None:
            self._attendant.after_commit()
        return outcomes


def _perform(connection: sa.Connection, work: Work[Any], *, alone: bool) -> _Outcome:
    """Run one piece of work in a savepoint; its own error stays its own.

    Raises the database's trouble (a lock, a full disk), which is everybody's.
    """
    if not alone:
        connection.exec_driver_sql("SAVEPOINT work")
    try:
        outcome = _Outcome(value=work(connection))
    except Exception as error:
        if is_trouble(error):
            raise
        if not alone:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT work")
        outcome = _Outcome(error=error)
    if not alone:
        connection.exec_driver_sql("RELEASE SAVEPOINT work")
    return outcome


def _commit(transaction: sa.RootTransaction) -> None:
    try:
        transaction.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            # A server may have committed before the connection broke: doing it again could do it twice.
            raise StoreUnavailable(
                "the database went away during a commit", details={"outcome": "unknown"}
            ) from error
        raise


def _abandon(connection: sa.Connection, transaction: sa.RootTransaction) -> None:
    try:
        transaction.rollback()
    except SQLAlchemyError:
        # SQLite rolls back by itself when the disk is full and has nothing left to roll back then.
        connection.invalidate()


def _typed(error: Exception) -> PoolError:
    if isinstance(error, PoolError):
        return error
    typed = (
        refusal(error)
        if isinstance(error, SQLAlchemyError)
        else StoreUnavailable("the database cannot be used")
    )
    typed.__cause__ = error
    return typed


def _tell(results: Sequence[tuple[_Job, _Outcome]]) -> None:
    """Resolve futures on their own loops, in order, with one wake-up of each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, _Outcome]]] = {}
    for job, outcome in results:
        by_loop.setdefault(job.loop, []).append((job, outcome))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, settled)
        except RuntimeError:
            # The loop is closed: nobody waits there any more, and the data is stored.
            _log.debug("store.loop_closed")


def _resolve(settled: Sequence[tuple[_Job, _Outcome]]) -> None:
    for job, outcome in settled:
        if job.future.done():
            continue
        if outcome.error is not None:
            job.future.set_exception(outcome.error)
        else:
            job.future.set_result(outcome.value)


def _nothing(_connection: sa.Connection) -> None:
    return None
