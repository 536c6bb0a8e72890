"""Who holds a slot: counted from the sessions that hold one, never by a counter that could drift.

A slot is taken before the launch and given back when the process is really
gone. Whether a request runs, waits, evicts or is refused is decided by
``pool.policy.admission``; here the line is kept and the decision carried out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pool.config import QuotaBook
from pool.errors import PoolFull
from pool.model import InstanceId, SessionKey, UserId
from pool.policy.admission import Admission, AdmissionFacts, EvictFirst, Refuse, Run, admit
from pool.policy.eviction import InstanceFacts


@dataclass(slots=True, eq=False)
class _Waiter:
    key: SessionKey
    may_wait: bool
    turn: asyncio.Future[None]
    since: float


class Slots:
    """The pool's capacity and the line before it.

    ``candidates`` tells the live instances with what matters for an eviction,
    ``leaving`` the keys whose instance is being stopped, ``evict`` parks one.
    """

    def __init__(
        self, quotas: QuotaBook, max_instances: int, queue_length: int, queue_timeout_seconds: float
    ) -> None:
        self.holders: set[SessionKey] = set()
        self.candidates: Callable[[], Sequence[InstanceFacts]] = tuple
        self.leaving: Callable[[], set[SessionKey]] = set
        self.evict: Callable[[InstanceId], None] = lambda _instance: None
        self._quotas = quotas
        self._max_instances = max_instances
        self._queue_length = queue_length
        self._queue_timeout_seconds = queue_timeout_seconds
        self._line: list[_Waiter] = []

    @property
    def limit(self) -> int:
        """How many slots there are."""
        return self._max_instances

    @property
    def queue_length(self) -> int:
        """How many wait."""
        return len(self._line)

    def waiting_users(self) -> list[UserId]:
        """Whose sessions stand in line, the first first."""
        return [waiter.key.user_id for waiter in self._line]

    def is_at_own_limit(self, user_id: UserId) -> bool:
        """Has the user as many instances as they may have?"""
        limit = self._quotas.for_user(user_id).max_instances
        return limit is not None and sum(key.user_id == user_id for key in self.holders) >= limit

    def oldest_wait(self, now: float) -> float:
        """Seconds that the first in line has waited."""
        return now - self._line[0].since if self._line else 0.0

    def check(self, key: SessionKey, *, may_wait: bool) -> None:
        """Raise what ``acquire`` would raise at once: ``QuotaExceeded`` or ``PoolFull``."""
        if key not in self.holders:
            decision = self._decide(key, self._line, len(self._line), may_wait)
            if isinstance(decision, Refuse):
                raise decision.error

    def has_room(self, key: SessionKey) -> bool:
        """Could ``key`` take a slot right now, evicting nobody, with nobody in line before it?"""
        decision = self._decide(key, self._line, len(self._line), False)
        return key in self.holders or isinstance(decision, Run)

    async def acquire(self, key: SessionKey, *, may_wait: bool) -> None:
        """Take a slot for ``key``, waiting in line if need be.

        Without ``may_wait`` a user at their own limit is refused at once; with
        it an idle instance of theirs is parked for this one. Raises ``QuotaExceeded`` or ``PoolFull``.
        """
        if key in self.holders:
            return
        loop = asyncio.get_running_loop()
        waiter = _Waiter(key, may_wait, loop.create_future(), loop.time())
        self._line.append(waiter)
        self._serve(waiter)
        try:
            async with asyncio.timeout(self._queue_timeout_seconds):
                await waiter.turn
        except TimeoutError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                waiter.turn.result()  # decided in the very moment in which the time was over
                return
            raise PoolFull(
                f"no instance became free within {self._queue_timeout_seconds:g} s", retry_after_seconds=10
            ) from None
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.release(key)
            raise
        finally:
            self._leave(waiter)

    def adopt(self, key: SessionKey) -> None:
        """A running instance of an earlier server holds a slot, whatever the limits say now."""
        self.holders.add(key)

    def release(self, key: SessionKey) -> None:
        """The process is gone: its slot goes to the first waiter who may have it."""
        self.holders.discard(key)
        self.look_again()

    def look_again(self) -> None:
        """Something changed (a slot is free, an instance became idle): decide for everybody in line."""
        for waiter in tuple(self._line):
            self._serve(waiter)

    def _serve(self, waiter: _Waiter) -> None:
        if waiter.turn.done():
            return
        before = self._line[: self._line.index(waiter)]
        decision = self._decide(waiter.key, before, len(self._line) - 1, waiter.may_wait)
        if isinstance(decision, Run):
            self.holders.add(waiter.key)
            self._line.remove(waiter)
            waiter.turn.set_result(None)
        elif isinstance(decision, EvictFirst):
            self.evict(decision.instance_id)
        elif isinstance(decision, Refuse):
            self._line.remove(waiter)
            waiter.turn.set_exception(decision.error)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter in self._line:
            self._line.remove(waiter)
            self.look_again()

    def _decide(self, key: SessionKey, before: Sequence[_Waiter], waiting: int, may_wait: bool) -> Admission:
        leaving = self.leaving()
        live_by_user = Counter(holder.user_id for holder in self.holders)
        return admit(
            AdmissionFacts(
                user_id=key.user_id,
                live=len(self.holders),
                limit=self._max_instances,
                user_live=live_by_user[key.user_id],
                user_limit=self._quotas.for_user(key.user_id).max_instances,
                leaving=len(leaving),
                user_leaving=sum(item.user_id == key.user_id for item in leaving),
                ahead=self._ahead(before, live_by_user),
                waiting=waiting,
                queue_length=self._queue_length,
                live_instances=self.candidates(),
                may_wait=may_wait,
            )
        )

    def _ahead(self, before: Sequence[_Waiter], live_by_user: Counter[UserId]) -> int:
        """How many of ``before`` could use a free slot; who is at a limit of their own holds up nobody."""
        claimed: Counter[UserId] = Counter()
        for waiter in before:
            user = waiter.key.user_id
            limit = self._quotas.for_user(user).max_instances
            if limit is None or live_by_user[user] + claimed[user] < limit:
                claimed[user] += 1
        return claimed.total()
