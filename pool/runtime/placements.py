"""Which host each user lives on: decided once, at first use, and never changed.

All of it is in memory: it is asked at every step, and is a name a user.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from pool.errors import HostUnavailable
from pool.model import LOCAL, UserId
from pool.policy.placement import HostLoad, choose_host
from pool.runtime.slots import Slots
from pool.store.base import Store


class Candidate(Protocol):
    """What placement must know of a host."""

    name: str
    slots: Slots

    @property
    def is_reached(self) -> bool:
        """May somebody be placed there now?"""


class Placements:
    """Kept in ``store``. ``lives_here`` tells, in a thread, who has directories on this machine."""

    def __init__(self, store: Store, lives_here: Callable[[str], bool]) -> None:
        self._store = store
        self._lives_here = lives_here
        self._names: dict[UserId, str] = {}
        self._users: Counter[str] = Counter()
        self._deciding = asyncio.Lock()

    async def load(self) -> None:
        """Raises ``StoreUnavailable``."""
        self._names = dict(await self._store.placements())
        self._users = Counter(self._names.values())

    def name_of(self, user_id: str) -> str | None:
        """The user's host, None while none was decided."""
        return self._names.get(UserId(user_id))

    def count(self, name: str) -> int:
        """How many users live on a host."""
        return self._users[name]

    def forget(self, user_id: UserId) -> None:
        """The user is no more; the row goes with the account."""
        name = self._names.pop(user_id, None)
        if name is not None:
            self._users[name] -= 1

    async def placed(self, user_id: UserId, hosts: Iterable[Candidate], wanted: str | None = None) -> str:
        """The user's host, decided and stored if it was not: ``wanted``, where that is known already.

        With one host nothing is decided, so that others can be configured
        later. Raises ``HostUnavailable``.
        """
        known = self._names.get(user_id)
        if known is not None:
            return known
        found = list(hosts)
        if len(found) == 1 and found[0].name == LOCAL:
            return LOCAL
        async with self._deciding:  # two callers for one user get one answer
            if user_id not in self._names:
                decided = wanted or await self._decide(user_id, found)
                name = self._names[user_id] = await self._store.place(user_id, decided)
                self._users[name] += 1
            return self._names[user_id]

    async def _decide(self, user_id: UserId, hosts: list[Candidate]) -> str:
        if await asyncio.to_thread(self._lives_here, user_id):
            return LOCAL
        chosen = choose_host(
            HostLoad(
                name=host.name,
                instances=len(host.slots.holders) + host.slots.queue_length,
                users=self._users[host.name],
                capacity=host.slots.limit,
                is_reached=host.is_reached,
            )
            for host in hosts
        )
        if chosen is None:
            raise HostUnavailable(
                "no machine can be reached that could take you; try again later", retry_after_seconds=10
            )
        return chosen
