"""Who stands where in the line before the slots, and the telling of it.

Everybody hears of a place once when they join, and of a new one at most once a
second. A crowd that joins in one turn of the event loop is told in the next
one: working out the line for each of them would cost its length squared.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from pool.model import Place, SessionKey, UserId
from pool.policy.line import FairLine, ServiceRate

Tell = Callable[[Place], None]

_TELL_SECONDS = 1.0
_TOLD_AT_ONCE = 10


@dataclass(slots=True, eq=False)
class Waiter:
    """One who wants a slot. ``turn`` is done when that is decided; ``told`` is the place told last."""

    key: SessionKey
    may_wait: bool
    turn: asyncio.Future[None]
    since: float
    tell: Tell | None
    told: Place | None = None


class LinePlaces:
    """Looks at a line that somebody else keeps.

    ``holders`` have a slot; ``limit_of`` tells how many a user may have. Who waits for an
    instance of their own has a place among their own only.
    """

    def __init__(
        self,
        line: FairLine[Waiter],
        holders: AbstractSet[SessionKey],
        rate: ServiceRate,
        limit_of: Callable[[UserId], int | None],
    ) -> None:
        self._line = line
        self._holders = holders
        self._rate = rate
        self._limit_of = limit_of
        self._teller: asyncio.TimerHandle | None = None
        self._newcomers: list[Waiter] = []

    def of(self, key: SessionKey) -> Place | None:
        """Where ``key`` stands; None when it does not wait."""
        if not self._line.count(key.user_id):
            return None
        return next((place for _waiter, place in self._among(lambda waiter: waiter.key == key)), None)

    def joined(self, waiter: Waiter) -> None:
        """``waiter`` stands in line: it is told its place in the next turn of the loop, the others soon."""
        if not self._newcomers:
            asyncio.get_running_loop().call_soon(self._tell_newcomers)
        self._newcomers.append(waiter)
        self.changed()

    def changed(self) -> None:
        """Somebody came or went. Many changes of a second are one word."""
        if self._teller is None and len(self._line):
            self._teller = asyncio.get_running_loop().call_later(_TELL_SECONDS, self._tell_everybody)

    def _among(self, is_wanted: Callable[[Waiter], bool]) -> Iterator[tuple[Waiter, Place]]:
        live, own, position = Counter(holder.user_id for holder in self._holders), Counter[UserId](), 0
        others, at_limit = self._others(live)
        now = asyncio.get_running_loop().time()
        for waiter in self._line:
            user = waiter.key.user_id
            if user in at_limit:
                own[user] += 1
            else:
                position += 1
            if not is_wanted(waiter):
                continue
            if user in at_limit:
                yield waiter, Place(own[user], self._line.count(user), None, "own")
            else:
                yield waiter, Place(position, others, self._rate.estimate_seconds(position, now))

    def _others(self, live: Counter[UserId]) -> tuple[int, set[UserId]]:
        """How many wait for a slot of the pool, and the users who wait for one of their own."""
        at_limit, others = set(), 0
        for user in self._line.users():
            limit = self._limit_of(user)
            if limit is not None and live[user] >= limit:
                at_limit.add(user)
            else:
                others += self._line.count(user)
        return others, at_limit

    def _tell_newcomers(self) -> None:
        newcomers, self._newcomers = set(self._newcomers), []
        self._tell(list(self._among(newcomers.__contains__)))

    def _tell_everybody(self) -> None:
        self._teller = None
        places = self._among(lambda waiter: waiter.tell is not None)
        self._tell([(waiter, place) for waiter, place in places if _is_news(waiter, place)])

    def _tell(self, news: Sequence[tuple[Waiter, Place]]) -> None:
        """A few in each turn of the loop: what is told is stored too, and two hundred may be in line."""
        for waiter, place in news[:_TOLD_AT_ONCE]:
            if waiter.tell is not None and not waiter.turn.done():
                waiter.told = place
                waiter.tell(place)
        if len(news) > _TOLD_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._tell, news[_TOLD_AT_ONCE:])


def _is_news(waiter: Waiter, place: Place) -> bool:
    """Is it another place than the one told last? The estimate alone is not told again."""
    told = waiter.told
    return told is None or replace(place, estimate_seconds=None) != replace(told, estimate_seconds=None)
