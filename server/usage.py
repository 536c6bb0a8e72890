"""What model calls used: taken over from the gateway's journal into the database, and asked for there.

Each stretch of a journal file is stored in one commit with the place that it
reaches to, so a kill of either side neither loses nor doubles a call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import web

from pool import UsageFigures, UsageRecord
from pool.config import Quota
from pool.errors import PoolError
from server.config import Team
from server.gateway.budgets import Limits, RateLimits, uses_of
from server.gateway.spending import Spent, day_of, month_start
from server.gateway.usage_journal import Entry
from server.gateway_files import GatewayFiles, Stretch
from server.notices import Notices, look_again

_EVERY_SECONDS = 2.0
_DAY_SECONDS = 86400.0
_MOST_ROUNDS = 1000

_log = logging.getLogger(__name__)


class UsageStore(Protocol):
    """Where usage is kept: ``pool.Usage``, as far as the server uses it. Raises ``StoreUnavailable``."""

    async def read_to(self) -> dict[str, int]:
        """How far each file of the journal has been taken in."""

    async def take_in(self, file: str, start: int, end: int, records: Sequence[UsageRecord]) -> bool:
        """Store a stretch of a file; False when it is not the next one."""

    async def forget_file(self, file: str) -> None:
        """The file is gone for good."""

    async def figures(self, user_id: str, first_day: int, last_day: int) -> UsageFigures:
        """What a user used from day to day, both included."""

    async def grouped(
        self,
        group: str,
        first_day: int,
        last_day: int,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        limit: int = 10_000,
    ) -> list[tuple[str, UsageFigures]]:
        """Sums by user, session, model, provider or day."""

    async def by_turn(
        self, user_id: str, session_id: str, limit: int = 100
    ) -> list[tuple[str | None, UsageFigures]]:
        """Sums of a session's last turns; None: of no turn."""


class UsageBooks:
    """The journal's reader and the reports. ``wall`` gives seconds since 1970."""

    def __init__(self, store: UsageStore, files: GatewayFiles, wall: Callable[[], float] = time.time) -> None:
        self.store = store
        self.wall = wall
        self._files = files
        self._offsets: dict[str, int] | None = None
        self._turn = asyncio.Lock()
        self._users: set[str] = set()

    def new_users(self) -> set[str]:
        """Whose use was taken in since this was asked before."""
        users, self._users = self._users, set()
        return users

    async def take_in(self) -> None:
        """Bring the database up to what the journal holds now. Raises ``StoreUnavailable``, ``OSError``."""
        async with self._turn:
            if self._offsets is None:
                self._offsets = await self.store.read_to()
            offsets = self._offsets
            try:
                # bounded, since another machine may say that there is always more
                for _ in range(_MOST_ROUNDS):
                    found = await asyncio.to_thread(self._files.grown, offsets)
                    if not found:
                        return
                    for stretch in found:
                        await self._store(stretch, offsets)
            except BaseException:
                # Whether the last commit took effect is not known: ask the database again.
                self._offsets = None
                raise

    async def forget(self, user_id: str) -> None:
        """Have the gateway count nothing of what was used until now for the next user of the name.

        Raises ``Conflict`` when its file cannot be used, ``OSError``.
        """
        async with self._turn:
            await asyncio.to_thread(self._files.forget_user, user_id, self.wall())

    async def tidy(self) -> None:
        """Remove journal files that are in the database and that the gateway does not need any more.

        Its counters of the running month are rebuilt from the journal, so a
        file stays for the month that it was written in, and a day.
        """
        async with self._turn:
            if self._offsets is None:
                return
            before = month_start(self.wall()) - _DAY_SECONDS
            for file in await asyncio.to_thread(self._files.finished, self._offsets, before):
                await asyncio.to_thread(self._files.remove_journal, file)
                self._offsets.pop(file, None)
                await self.store.forget_file(file)

    async def quota_use(self, user_id: str, quota: Quota) -> dict[str, dict[str, Any]]:
        """What is used of each limit of model use; of those that are set also how near and until when."""
        limits = Limits(
            tokens_per_day=quota.tokens_per_day,
            usd_per_day=quota.usd_per_day,
            usd_per_month=quota.usd_per_month,
        )
        now = self.wall()
        today = day_of(now)
        day = await self.store.figures(user_id, today, today)
        month = await self.store.figures(user_id, day_of(month_start(now)), today)
        found: dict[str, dict[str, Any]] = {
            "tokens_per_day": {"used": day.tokens},
            "usd_per_day": {"used": round(day.usd, 9)},
            "usd_per_month": {"used": round(month.usd, 9)},
        }
        for use in uses_of(limits, Spent(day.tokens, day.usd, month.usd), now):
            found[use.name] |= {"warning": use.is_near, "resets_at": use.resets_at}
        return found

    async def team_use(self, team: Team) -> list[dict[str, Any]]:
        """How far the limits of a team are used by all its members together."""
        limits = RateLimits.model_validate(team.model_dump(exclude={"members"}))
        if not limits.has_budget:
            return []
        now = self.wall()
        today, members = day_of(now), set(team.members)
        day = await self.store.grouped("user", today, today)
        month = await self.store.grouped("user", day_of(month_start(now)), today)
        spent = Spent(
            sum(figures.tokens for user, figures in day if user in members),
            sum(figures.usd for user, figures in day if user in members),
            sum(figures.usd for user, figures in month if user in members),
        )
        return [
            {
                "name": use.name,
                "limit": use.limit,
                "used": round(use.used, 9),
                "warning": use.is_near,
                "resets_at": use.resets_at,
            }
            for use in uses_of(limits, spent, now)
        ]

    async def _store(self, stretch: Stretch, offsets: dict[str, int]) -> None:
        records = [_record(entry) for entry in stretch.entries]
        if await self.store.take_in(stretch.file, stretch.start, stretch.end, records):
            offsets[stretch.file] = stretch.end
            self._users.update(entry.user for entry in stretch.entries)
        else:
            offsets.update(await self.store.read_to())


def _record(entry: Entry) -> UsageRecord:
    return UsageRecord(
        at=entry.at,
        seconds=entry.seconds,
        user_id=entry.user,
        session_id=entry.session,
        instance_id=entry.instance,
        provider=entry.provider,
        model=entry.model,
        input_tokens=entry.input_tokens,
        output_tokens=entry.output_tokens,
        cache_write_tokens=entry.cache_write_tokens,
        cache_read_tokens=entry.cache_read_tokens,
        usd=entry.usd,
        priced=entry.priced,
        complete=entry.complete,
    )


def reader(
    books: UsageBooks, notices: Notices, tell: Callable[[], Awaitable[None]] | None = None
) -> Callable[[web.Application], AsyncIterator[None]]:
    """A cleanup context that keeps the database close behind the journal while the server runs.

    ``tell`` passes on what the books say after each look.
    """

    async def running(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_read_on(books, notices, tell), name="usage-reader")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return running


async def _read_on(books: UsageBooks, notices: Notices, tell: Callable[[], Awaitable[None]] | None) -> None:
    while True:
        try:
            await books.take_in()
            if tell is not None:
                await tell()
            await books.tidy()
            await look_again(notices, books.new_users())
        except (PoolError, OSError):
            _log.exception("the usage of the model gateway could not be taken over")
        await asyncio.sleep(_EVERY_SECONDS)
