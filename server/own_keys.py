"""Users' own model keys, as they manage them; kept where the gateway finds them, never read back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pool.errors import NotFound
from server.gateway_files import GatewayFiles


class OwnModelKeys:
    """One object a server: it is the only writer. Every method raises ``Conflict`` for files that
    cannot be used."""

    def __init__(self, files: GatewayFiles, place: Callable[[str], Awaitable[Any]] | None = None) -> None:
        """``place`` decides on which host a user lives, for whom it was not decided yet."""
        self._files = files
        self._place = place
        self._turn = asyncio.Lock()

    async def of(self, user_id: str) -> dict[str, bool]:
        """The providers that take own keys: has this user brought one?"""
        async with self._turn:
            return await asyncio.to_thread(self._files.own_keys_of, user_id)

    async def put(self, user_id: str, provider: str, key: str) -> None:
        """Keep a key from now on. Raises ``NotFound`` for a provider that takes none, ``BadRequest``,
        ``KeeperUnavailable`` while the user's host cannot be reached."""
        if self._place is not None:
            await self._place(user_id)
        async with self._turn:
            await asyncio.to_thread(self._files.put_own_key, user_id, provider, key)

    async def remove(self, user_id: str, provider: str) -> None:
        """Forget a key. Raises ``NotFound``."""
        async with self._turn:
            if not await asyncio.to_thread(self._files.remove_own_key, user_id, provider):
                raise NotFound(f"there is no key of yours for {provider}")

    async def forget(self, user_id: str) -> None:
        """Forget all keys of a user."""
        async with self._turn:
            await asyncio.to_thread(self._files.remove_own_key, user_id, None)
