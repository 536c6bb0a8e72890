"""The few threads that read the database: each read is one hop to a thread and back.

An async driver hops for every step of a read (begin, execute, fetch, close),
which costs three times the processor time, and on a busy machine each hop
waits for its turn. Whoever waits for a thread waits in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pool.errors import StoreUnavailable
from pool.store.engines import READERS, Location, reading_engine
from pool.store.trouble import refusal

T = TypeVar("T")

_LAST_READS_SECONDS = 10
_INTERRUPT_SECONDS = 1


class Readers:
    """Threads and connections are made when first needed, never more than ``READERS``.

    At the end reads that are under way have ``last_reads_seconds``.
    """

    def __init__(
        self,
        location: Location,
        busy_timeout_seconds: float,
        *,
        last_reads_seconds: float = _LAST_READS_SECONDS,
    ) -> None:
        self._engine = reading_engine(location, busy_timeout_seconds)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._last_reads_seconds = last_reads_seconds
        self._reads: set[Future[Any]] = set()
        self._at_work: set[sa.Connection] = set()

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """What ``work`` gives, in a thread. Each statement of it is a snapshot of its own.

        A caller who is cancelled waits no longer; a read that has begun goes
        on. Raises ``StoreUnavailable``, also for a read that the end came before.
        """
        try:
            read = self._threads.submit(self._run, work)
        except RuntimeError:
            raise StoreUnavailable("the store is closed") from None
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)
        try:
            return await asyncio.wrap_future(read)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if read.cancelled() and caller is not None and not caller.cancelling():
                raise StoreUnavailable("the store is closed") from None
            raise

    async def aclose(self) -> None:
        """Let reads end, interrupt those that do not, and disconnect."""
        await asyncio.to_thread(self._close)

    # --- in threads ---------------------------------------------------------------------

    def _run(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                self._at_work.add(connection)
                try:
                    return work(connection)
                finally:
                    self._at_work.discard(connection)
        except SQLAlchemyError as error:
            raise refusal(error) from error

    def _close(self) -> None:
        reads = set(self._reads)
        wait(reads, timeout=self._last_reads_seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for connection in tuple(self._at_work):
            with contextlib.suppress(Exception):
                _interrupt(connection)
        wait(reads, timeout=_INTERRUPT_SECONDS)
        if all(read.done() for read in reads):
            self._threads.shutdown()
        self._engine.dispose()


def _interrupt(connection: sa.Connection) -> None:
    raw: Any = connection.connection.driver_connection
    if hasattr(raw, "interrupt"):
        raw.interrupt()
    else:
        raw.cancel_safe(timeout=_INTERRUPT_SECONDS)
