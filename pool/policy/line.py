"""The line before the slots: users take turns, and within a user the oldest goes first.

With one line for all, a user who asks a thousand times would put everybody
else behind a thousand. Here the next slot goes to the next user in turn, so
that a newcomer waits for each other user once, however many wait for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

from pool.model import UserId

_Waiter = TypeVar("_Waiter")


class FairLine(Generic[_Waiter]):
    """Who waits, in the order in which they will be served if nobody comes or goes."""

    def __init__(self) -> None:
        # In turn order: the first user is served next and goes to the end then.
        self._users: dict[UserId, deque[_Waiter]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_Waiter]:
        """Each user's first, in turn order, then each user's second, and so on."""
        nobody = object()
        for row in zip_longest(*(tuple(waiters) for waiters in self._users.values()), fillvalue=nobody):
            yield from (waiter for waiter in row if waiter is not nobody)  # type: ignore[misc]

    def __contains__(self, waiter: object) -> bool:
        return any(waiter in waiters for waiters in self._users.values())

    def count(self, user_id: UserId) -> int:
        """How many of a user's stand here."""
        return len(self._users.get(user_id, ()))

    def users(self) -> Iterable[UserId]:
        """Whose stand here, in turn."""
        return self._users.keys()

    def join(self, user_id: UserId, waiter: _Waiter) -> None:
        """Stand behind the user's own; a user who was not here is the last in turn."""
        self._users.setdefault(user_id, deque()).append(waiter)
        self._length += 1

    def leave(self, user_id: UserId, waiter: _Waiter, *, was_served: bool) -> None:
        """Go. After a service it is the other users' turn first. Who is not here: no effect."""
        waiters = self._users.get(user_id)
        if waiters is None or waiter not in waiters:
            return
        waiters.remove(waiter)
        self._length -= 1
        if was_served or not waiters:
            del self._users[user_id]
            if waiters:
                self._users[user_id] = waiters


class ServiceRate:
    """How fast those in line are served, by monotonic times that the caller gives.

    Only time in which somebody waited is counted: a pool with free slots says
    nothing about how long a full one takes.
    """

    KEPT = 20

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=self.KEPT)
        self._since: float | None = None

    def waiting(self, now: float, *, is_anybody: bool) -> None:
        """Somebody came or went."""
        if not is_anybody:
            self._since = None
        elif self._since is None:
            self._since = now

    def served(self, now: float) -> None:
        """One who waited has got a slot."""
        if self._since is not None:
            self._gaps.append(now - self._since)
            self._since = now

    def estimate_seconds(self, position: int, now: float) -> float | None:
        """Seconds until whoever stands at ``position`` (the first is 1) is served; None: not known yet."""
        if not self._gaps:
            return None
        waited = now - self._since if self._since is not None else 0.0
        gap = sum(self._gaps) / len(self._gaps)
        if waited > gap:  # slower than it was
            gap = (sum(self._gaps) + waited) / (len(self._gaps) + 1)
        return max(gap * position - waited, gap * (position - 1), 1.0)
