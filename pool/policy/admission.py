"""Who gets a slot: run, queue or refuse with a time to come back.

A slot is taken by every instance that is not exited, also by one that is
stopping or stuck. Waiters stand in one line (``pool.policy.line``); a decision
is made for one of them, knowing how many stand before it, and is made again
whenever a slot is freed, an instance becomes idle, or somebody leaves the line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pool.errors import Draining, PoolFull, QueueFull, QuotaExceeded, Refused
from pool.model import InstanceId, UserId
from pool.policy.eviction import InstanceFacts, choose_victim

RETRY_AFTER_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionFacts:
    """All that counts for one request of ``user_id`` for a slot.

    ``live`` and ``user_live`` are instances not exited, of all and of this
    user; ``leaving`` and ``user_leaving`` are those of them that are being
    stopped (stuck ones are not leaving). A limit of None is no limit.
    ``ahead`` waiters stand before this one, ``waiting`` in the whole line and
    ``user_waiting`` of this user's, both without this one; ``is_in_line``: it
    was let into the line before. ``next_service_seconds`` is when the next in
    line is likely to be served, None when that is not known.
    ``live_instances`` are candidates for eviction, looked at only where one decides. Who may not wait
    (``may_wait``: a call that wants its answer now) evicts nothing of their
    own. ``trouble`` is why no work can be admitted at all (a full disk), in
    words for the user.
    """

    user_id: UserId
    live: int
    limit: int | None
    user_live: int
    user_limit: int | None
    leaving: int = 0
    user_leaving: int = 0
    ahead: int = 0
    waiting: int = 0
    user_waiting: int = 0
    is_in_line: bool = False
    next_service_seconds: float | None = None
    queue_length: int = 100
    may_wait: bool = True
    is_draining: bool = False
    trouble: str | None = None
    live_instances: Iterable[InstanceFacts] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Take the slot and launch now."""


@dataclass(frozen=True, slots=True)
class EvictFirst:
    """Park this instance for the request, which waits in line and is decided again at its exit."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class Wait:
    """Stand in line."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Raise ``error``; it says when to come back."""

    error: Refused


Admission = Run | EvictFirst | Wait | Refuse


def admit(facts: AdmissionFacts) -> Admission:
    """Decide about one request for a slot."""
    if facts.is_draining:
        return Refuse(Draining("the pool is draining", retry_after_seconds=RETRY_AFTER_SECONDS))
    if facts.trouble is not None:
        return Refuse(PoolFull(facts.trouble, retry_after_seconds=60.0))
    return _at_user_limit(facts) or _in_line(facts)


def _at_user_limit(facts: AdmissionFacts) -> Admission | None:
    limit = facts.user_limit
    if limit is None or facts.user_live < limit:
        return None
    if limit == 0 or not facts.may_wait:
        return Refuse(_quota_exceeded(facts, limit))
    if facts.user_live - facts.user_leaving >= limit:
        victim = choose_victim(item for item in facts.live_instances if item.user_id == facts.user_id)
        if victim is not None:
            return EvictFirst(victim)
    return _queue(facts)


def _in_line(facts: AdmissionFacts) -> Admission:
    if facts.limit is None:
        return Run()
    free = facts.limit - facts.live
    if free > facts.ahead:
        return Run()
    if free + facts.leaving > facts.ahead:
        return Wait()
    victim = choose_victim(facts.live_instances)
    if victim is not None:
        return EvictFirst(victim)
    if facts.may_wait:
        return _queue(facts)
    message = f"all {facts.limit} slots of the pool are busy"
    return Refuse(PoolFull(message, retry_after_seconds=_soon(facts)))


def _queue(facts: AdmissionFacts) -> Admission:
    free_places = facts.queue_length - facts.waiting
    # As many as there are free places: whoever has few in line finds room, however many others have.
    if facts.is_in_line or (free_places > 0 and facts.user_waiting < free_places):
        return Wait()
    message = f"{facts.waiting} requests wait for a slot already"
    if free_places > 0:
        message = f"{message}, {facts.user_waiting} of them yours; the other places are kept for other users"
    return Refuse(QueueFull(message, retry_after_seconds=_soon(facts)))


def _soon(facts: AdmissionFacts) -> float:
    return retry_after(facts.next_service_seconds)


def retry_after(estimate_seconds: float | None) -> float:
    """When to come back, from when a slot is likely to be free: neither at once nor in hours."""
    if estimate_seconds is None:
        return RETRY_AFTER_SECONDS
    return min(max(estimate_seconds, 1.0), LONGEST_RETRY_AFTER_SECONDS)


def _quota_exceeded(facts: AdmissionFacts, limit: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"quota exceeded: you have {facts.user_live} live instances and may have {limit}; "
        "stop one or come back later",
        retry_after_seconds=RETRY_AFTER_SECONDS,
        details={"quota": "max_instances", "limit": limit, "used": facts.user_live},
    )
