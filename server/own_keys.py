"""Users' own model keys, as they manage them; kept where the gateway finds them, never read back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pool.errors import BadRequest, Conflict, NotFound
from server.gateway.own_keys import OwnKeys
from server.gateway.settings import GatewayConfigError, is_credential, read_shown_providers

_T = TypeVar("_T")


class OwnModelKeys:
    """One object a server: it is the only writer. Every method raises ``Conflict`` for files that
    cannot be used."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._keys = OwnKeys(data_dir)
        self._keys.settle()
        self._turn = asyncio.Lock()

    async def of(self, user_id: str) -> dict[str, bool]:
        """The providers that take own keys: has this user brought one?"""

        def look() -> dict[str, bool]:
            mine = self._keys.providers_of(user_id)
            return {name: name in mine for name in self._open_providers()}

        return await self._do(look)

    async def put(self, user_id: str, provider: str, key: str) -> None:
        """Keep a key from now on. Raises ``NotFound`` for a provider that takes none, ``BadRequest``."""
        if not key or not is_credential(key):
            raise BadRequest("a key has no white space and only printable ASCII characters")

        def put() -> None:
            if provider not in self._open_providers():
                raise NotFound(f"there is no provider {provider} that takes own keys")
            self._keys.put(user_id, provider, key)

        await self._do(put)

    async def remove(self, user_id: str, provider: str) -> None:
        """Forget a key. Raises ``NotFound``."""
        if not await self._do(lambda: self._keys.remove(user_id, provider)):
            raise NotFound(f"there is no key of yours for {provider}")

    async def forget(self, user_id: str) -> None:
        """Forget all keys of a user."""
        await self._do(lambda: self._keys.remove(user_id))

    def _open_providers(self) -> list[str]:
        return [name for name, one in read_shown_providers(self._data_dir).items() if one.own_keys]

    async def _do(self, work: Callable[[], _T]) -> _T:
        async with self._turn:
            try:
                return await asyncio.to_thread(work)
            except (GatewayConfigError, OSError) as error:
                raise Conflict(f"the keys cannot be kept: {error}") from error
