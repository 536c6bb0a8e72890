"""Which instance may be parked, and which one goes first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pool.model import InstanceId, InstanceState, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """What matters about a live instance. Times are on one monotonic clock, in seconds.

    ``has_open_turn``: a turn is queued for it, dispatched, running or awaiting
    an approval. ``idle_since``: when its last turn ended, or it became ready.
    ``is_pinned``: somebody asked to keep it (a terminal is open, an operator).
    """

    instance_id: InstanceId
    user_id: UserId
    state: InstanceState
    idle_since: float
    started_at: float
    has_open_turn: bool = False
    has_background_work: bool = False
    is_pinned: bool = False


def is_idle(facts: InstanceFacts) -> bool:
    """May it be parked without anybody losing anything?"""
    return (
        facts.state is InstanceState.READY
        and not facts.has_open_turn
        and not facts.has_background_work
        and not facts.is_pinned
    )


def choose_victim(candidates: Iterable[InstanceFacts]) -> InstanceId | None:
    """The instance that is idle longest, or None if none is idle."""
    idle = [facts for facts in candidates if is_idle(facts)]
    if not idle:
        return None
    return min(idle, key=lambda facts: (facts.idle_since, facts.instance_id)).instance_id


def is_due_to_park(
    facts: InstanceFacts, now: float, *, idle_timeout_seconds: float, max_age_seconds: float
) -> bool:
    """Has an idle instance been idle, or alive, for longer than it may be?

    A timeout of 0 means never.
    """
    if not is_idle(facts):
        return False
    idle_over = 0 < idle_timeout_seconds <= now - facts.idle_since
    age_over = 0 < max_age_seconds <= now - facts.started_at
    return idle_over or age_over
