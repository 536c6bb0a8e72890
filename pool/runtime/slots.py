"""Who holds a slot: counted from the sessions that hold one, never by a counter that could drift.

A slot is taken before the launch and given back when the process is really
gone. Whether a request runs, waits, evicts or is refused is decided by
``pool.policy.admission``; here the line is kept and the decision carried out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile

from pool.config import QuotaBook
from pool.errors import PoolFull
from pool.model import InstanceId, Place, SessionKey, UserId
from pool.policy.admission import (
    Admission,
    AdmissionFacts,
    EvictFirst,
    Refuse,
    Run,
    admit,
    retry_after,
)
from pool.policy.eviction import InstanceFacts, is_idle
from pool.policy.line import FairLine, ServiceRate
from pool.runtime.line_places import LinePlaces, Tell, Waiter


class _Candidates:
    """For an eviction: those that are idle. Most decisions need none, and then nobody is asked for them."""

    def __init__(self, find: Callable[[], Sequence[InstanceFacts]]) -> None:
        self._find = find
        self._found: Sequence[InstanceFacts] | None = None

    def __iter__(self) -> Iterator[InstanceFacts]:
        if self._found is None:
            self._found = [facts for facts in self._find() if is_idle(facts)]
        return iter(self._found)


class _Look:
    """What the pool is like during one pass over the line; who was passed has the first claim."""

    def __init__(self, holders: set[SessionKey], leaving: set[SessionKey], candidates: _Candidates) -> None:
        self.live_by_user = Counter(holder.user_id for holder in holders)
        self.leaving = leaving
        self.candidates = candidates
        self.ahead = 0
        self._claimed: Counter[UserId] = Counter()

    def passes(self, user_id: UserId, limit: int | None) -> None:
        """One of ``user_id`` waits before whoever comes next; who is at their own limit holds up nobody."""
        if limit is None or self.live_by_user[user_id] + self._claimed[user_id] < limit:
            self._claimed[user_id] += 1
            self.ahead += 1


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
        self._line: FairLine[Waiter] = FairLine()
        self._rate = ServiceRate()
        self._places = LinePlaces(self._line, self.holders, self._rate, self._user_limit)

    # --- facts -------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """How many slots there are."""
        return self._max_instances

    @limit.setter
    def limit(self, limit: int) -> None:
        self._max_instances = limit
        self.look_again()

    @property
    def queue_length(self) -> int:
        """How many wait."""
        return len(self._line)

    def waiting_users(self) -> list[UserId]:
        """Whose sessions stand in line, the first first."""
        return [waiter.key.user_id for waiter in self._line]

    def is_at_own_limit(self, user_id: UserId) -> bool:
        """Has the user as many instances as they may have?"""
        limit = self._user_limit(user_id)
        return limit is not None and sum(key.user_id == user_id for key in self.holders) >= limit

    def oldest_wait(self, now: float) -> float:
        """Seconds that whoever waits longest has waited."""
        return max((now - waiter.since for waiter in self._line), default=0.0)

    def place(self, key: SessionKey) -> Place | None:
        """Where ``key`` stands in line; None when it does not."""
        return self._places.of(key)

    def check(self, key: SessionKey, *, may_wait: bool) -> None:
        """Raise what ``acquire`` would raise at once: ``QuotaExceeded``, ``QueueFull`` or ``PoolFull``."""
        if key not in self.holders:
            decision = self._decide(key, self._look_past(self._line), may_wait=may_wait, is_in_line=False)
            if isinstance(decision, Refuse):
                raise decision.error

    def has_room(self, key: SessionKey) -> bool:
        """Could ``key`` take a slot right now, evicting nobody, with nobody in line before it?"""
        look = self._look_past(self._line)
        look.candidates = _Candidates(tuple)
        decision = self._decide(key, look, may_wait=False, is_in_line=False)
        return key in self.holders or isinstance(decision, Run)

    # --- taking and giving back -----------------------------------------------------------

    async def acquire(self, key: SessionKey, *, may_wait: bool, tell: Tell | None = None) -> None:
        """Take a slot for ``key``, waiting in line if need be; ``tell`` hears the places meanwhile.

        Without ``may_wait`` a user at their own limit is refused at once; with
        it an idle instance of theirs is parked for this one. Raises
        ``QuotaExceeded``, ``QueueFull`` or ``PoolFull``.
        """
        if key in self.holders:
            return
        loop = asyncio.get_running_loop()
        waiter = Waiter(key, may_wait, loop.create_future(), loop.time(), tell)
        self._enter(waiter)
        try:
            async with asyncio.timeout(self._queue_timeout_seconds):
                await waiter.turn
        except TimeoutError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                waiter.turn.result()  # decided in the very moment in which the time was over
                return
            raise self._too_late(self.place(key)) from None
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.release(key)
            raise
        finally:
            self._leave(waiter)

    def adopt(self, *keys: SessionKey) -> None:
        """A running instance of an earlier server holds a slot, whatever the limits say now."""
        self.holders.update(keys)

    def release(self, key: SessionKey) -> None:
        """The process is gone: its slot goes to the first waiter who may have it."""
        self.holders.discard(key)
        self.look_again()

    def look_again(self) -> None:
        """Something changed (a slot is free, an instance became idle): decide for everybody in line."""
        if len(self._line):
            look = self._look_past(())
            for waiter in tuple(self._line):
                # one whose time was over a moment ago has not left the line yet
                if not waiter.turn.done() and not self._must_wait(waiter, look):
                    look = self._serve(waiter, look)
            self._places.changed()

    # --- the line ----------------------------------------------------------------------------

    def _enter(self, waiter: Waiter) -> None:
        """Decide at once, knowing the line; who waits gets a place and is told of it."""
        user, now = waiter.key.user_id, waiter.since
        look = self._look_past(self._line)
        decision = self._decide(waiter.key, look, waiter.may_wait, is_in_line=False)
        if isinstance(decision, Refuse):
            waiter.turn.set_exception(decision.error)
            return
        self._line.join(user, waiter)
        self._serve(waiter, self._look_past(takewhile(lambda other: other is not waiter, self._line)))
        self._rate.waiting(now, is_anybody=bool(len(self._line)))
        if not waiter.turn.done():
            self._places.joined(waiter)

    def _must_wait(self, waiter: Waiter, look: _Look) -> bool:
        """Is there nothing left to give or to evict, so that whoever may wait does?

        Where many wait, that is what nearly all of them would be told one by one.
        """
        is_used_up = look.ahead >= self._soon_free(look) and not any(True for _ in look.candidates)
        return is_used_up and waiter.may_wait and self._user_limit(waiter.key.user_id) != 0

    def _soon_free(self, look: _Look) -> int:
        return self._max_instances - len(self.holders) + len(look.leaving)

    def _serve(self, waiter: Waiter, look: _Look) -> _Look:
        """Carry out what is decided for one in line; what the pool is like for the next one."""
        user = waiter.key.user_id
        decision = self._decide(waiter.key, look, waiter.may_wait, is_in_line=True)
        if isinstance(decision, Run):
            self.holders.add(waiter.key)
            look.live_by_user[user] += 1
            self._go(waiter, was_served=True)
            waiter.turn.set_result(None)
            return look
        if isinstance(decision, Refuse):
            self._go(waiter, was_served=False)
            waiter.turn.set_exception(decision.error)
            return look
        if isinstance(decision, EvictFirst):
            self.evict(decision.instance_id)
            look.leaving, look.candidates = self.leaving(), _Candidates(self.candidates)
        look.passes(user, self._user_limit(user))
        return look

    def _go(self, waiter: Waiter, *, was_served: bool) -> None:
        now = asyncio.get_running_loop().time()
        if was_served:
            self._rate.served(now)
        self._line.leave(waiter.key.user_id, waiter, was_served=was_served)
        self._rate.waiting(now, is_anybody=bool(len(self._line)))

    def _leave(self, waiter: Waiter) -> None:
        if waiter in self._line:
            self._go(waiter, was_served=False)
            self.look_again()

    def _too_late(self, place: Place | None) -> PoolFull:
        seconds = retry_after(place.estimate_seconds if place is not None else None)
        return PoolFull(
            f"no instance became free within {self._queue_timeout_seconds:g} s; "
            f"try again in about {seconds:.0f} s",
            retry_after_seconds=seconds,
        )

    # --- decisions -----------------------------------------------------------------------------

    def _user_limit(self, user_id: UserId) -> int | None:
        return self._quotas.for_user(user_id).max_instances

    def _look_past(self, before: Iterable[Waiter]) -> _Look:
        """What the pool is like after ``before``; counted no further than it can matter."""
        look = _Look(self.holders, self.leaving(), _Candidates(self.candidates))
        soon_free = self._soon_free(look)
        if soon_free > 0:
            for waiter in before:
                look.passes(waiter.key.user_id, self._user_limit(waiter.key.user_id))
                if look.ahead >= soon_free:
                    break
        return look

    def _decide(self, key: SessionKey, look: _Look, may_wait: bool, *, is_in_line: bool) -> Admission:
        user, me = key.user_id, int(is_in_line)
        return admit(
            AdmissionFacts(
                user_id=user,
                live=len(self.holders),
                limit=self._max_instances,
                user_live=look.live_by_user[user],
                user_limit=self._user_limit(user),
                leaving=len(look.leaving),
                user_leaving=sum(item.user_id == user for item in look.leaving),
                ahead=look.ahead,
                waiting=len(self._line) - me,
                user_waiting=self._line.count(user) - me,
                is_in_line=is_in_line,
                next_service_seconds=self._rate.estimate_seconds(1, _now()),
                queue_length=self._queue_length,
                live_instances=look.candidates,
                may_wait=may_wait,
            )
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
