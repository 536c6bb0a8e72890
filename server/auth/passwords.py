"""Password hashes: argon2id in a small pool of threads, so that sign-ins cannot starve the event loop.

The parameters are OWASP's first choice for servers that do much else (19 MiB,
two passes, one lane): about 30 ms of one core a check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pool.errors import BadRequest, RateLimited
from server.threads import whole_pool

_T = TypeVar("_T")

MIN_LENGTH = 8
MAX_LENGTH = 1024
_THREADS = 2
_MAX_WAITING = 32


class Passwords:
    """Hashes and checks passwords; close it to end its threads."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._threads = whole_pool(_THREADS, "argon2")
        self._waiting = 0
        self._decoy = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the threads; at most the checks that run are waited for."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """A new hash. Raises ``BadRequest`` for a password that is too short or too long."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise BadRequest(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
        return await self.rehash(password)

    async def rehash(self, password: str) -> str:
        """A new hash of a password that was accepted before, whatever today's rules are."""
        return await self._run(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Does ``password`` fit? ``stored`` None never fits, and takes as long.

        Raises ``RateLimited`` when too many checks wait already.
        """
        if len(password) > MAX_LENGTH:
            return False
        fits = await self._run(self._check, stored or "", password)
        return fits and stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Was the hash made with parameters other than today's?"""
        return self._hasher.check_needs_rehash(stored)

    def _check(self, stored: str, password: str) -> bool:
        # Also made where it is not needed, so that the first answer takes the same time whoever asks.
        self._decoy = self._decoy or self._hasher.hash("no account has this password")
        try:
            return self._hasher.verify(stored or self._decoy, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, function: Callable[..., _T], *args: str) -> _T:
        if self._waiting >= _MAX_WAITING:
            raise RateLimited("too many sign-ins at once; try again", retry_after_seconds=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._waiting -= 1
