"""Plain facts for the stories of the policies; each story changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pool.model import InstanceId, InstanceState, UserId
from pool.policy.admission import AdmissionFacts
from pool.policy.eviction import InstanceFacts


def idle(name: str, since: float = 0.0, user: str = "bob", **changes: Any) -> InstanceFacts:
    """A ready instance that nobody needs."""
    facts = InstanceFacts(
        instance_id=InstanceId(name),
        user_id=UserId(user),
        state=InstanceState.READY,
        idle_since=since,
        started_at=0.0,
    )
    return replace(facts, **changes)


def asking(**changes: Any) -> AdmissionFacts:
    """Alice asks for a slot of a pool of four, with nothing in the way."""
    facts = AdmissionFacts(user_id=UserId("alice"), live=0, limit=4, user_live=0, user_limit=3)
    return replace(facts, **changes)
