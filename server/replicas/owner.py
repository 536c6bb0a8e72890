"""The owner as a stand-by knows it: where it is, whether it answers, and when it is another one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from pool import LeaseRow
from server.errors import NoOwner

T = TypeVar("T")

ANSWER_SECONDS = 1.0
"""How long an owner may take to accept a connection, and to answer a look at it."""

LOOK = "X-Claude-Pool-Look"
"""Of a stand-by's look at who it takes for the owner: another stand-by must not ask further."""

_IDLE_SECONDS = 30.0
_AGAIN_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """One ownership of the pool. ``lost`` is set when it is over."""

    url: URL
    epoch: int
    lost: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class OwnerWatch:
    """Who owns now, as the database said last; and the connections to it."""

    def __init__(self, own_url: str, base_path: str) -> None:
        self._own_url = own_url
        self._base_path = base_path
        self._owner: Owner | None = None
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Be ready to connect."""
        self._http = aiohttp.ClientSession(
            # sooner than the owner closes what lies idle: a request must not meet that
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def let_go(self) -> None:
        """There is no owner any more, as far as this replica is concerned: what goes through here ends."""
        self.saw(None)

    async def aclose(self) -> None:
        """Disconnect."""
        if self._http is not None:
            await self._http.close()

    def saw(self, row: LeaseRow | None) -> None:
        """What the database says of the lease; None for one that is nobody's."""
        owner = self._owner
        if row is not None and row.url == self._own_url:
            row = None  # of an image of this replica that is gone
        if row is not None and owner is not None and owner.epoch == row.epoch:
            return
        self._owner = None if row is None else Owner(URL(row.url), row.epoch)
        if owner is not None:
            owner.lost.set()

    @property
    def owner(self) -> Owner | None:
        """Who owns, as far as is known."""
        return self._owner

    @property
    def http(self) -> aiohttp.ClientSession:
        """For requests to the owner."""
        assert self._http is not None
        return self._http

    def require(self) -> Owner:
        """Who owns. Raises ``NoOwner``."""
        if self._owner is None:
            raise no_owner()
        return self._owner

    async def reasons_of_owner(self) -> list[str] | None:
        """Why the owner admits nothing, empty when it does; None when it does not answer."""
        owner = self._owner
        if owner is None:
            return None
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self.http.get(self._page(owner, "readyz"), headers={LOOK: "1"}) as answer,
            ):
                page = await answer.json()
                return [str(reason) for reason in page["reasons"]]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
            return None

    async def answers(self, owner: Owner) -> bool:
        """Does its loop turn?"""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self.http.get(self._page(owner, "livez")) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def while_it_answers(self, owner: Owner, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives, which may take long as long as the owner answers others.

        One that is stopped still accepts connections: the kernel does. Raises ``TimeoutError``.
        """
        task = asyncio.create_task(work, name="asking-the-owner")
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=ANSWER_SECONDS)
                if done:
                    return task.result()
                if owner.lost.is_set() or not await self.answers(owner):
                    raise TimeoutError("the owner does not answer")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def _page(self, owner: Owner, name: str) -> URL:
        return owner.url.with_path(f"{self._base_path}/{name}")


def no_owner() -> NoOwner:
    """For whoever is to come back."""
    return NoOwner("no replica owns the pool now; another takes over", retry_after_seconds=_AGAIN_SECONDS)
