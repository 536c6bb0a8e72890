"""What admission must know of the live instances, and the eviction that it decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pool.model import InstanceId, InstanceState, SessionKey, SessionState
from pool.policy.eviction import InstanceFacts

if TYPE_CHECKING:
    from pool.runtime.hosts import Host
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session


class Capacity:
    """Looks at the sessions that hold a slot of ``host``: as many as there are instances, not as users."""

    def __init__(self, sessions: Mapping[SessionKey, Session], host: Host) -> None:
        self._sessions = sessions
        self._host = host

    def candidates(self) -> list[InstanceFacts]:
        """What matters about every live instance when a slot is wanted."""
        return [
            InstanceFacts(
                instance_id=instance.id,
                user_id=session.key.user_id,
                state=instance.state,
                idle_since=session.idleness.since,
                started_at=instance.started_at,
                has_open_turn=session.turns.open_turn is not None or bool(session.turns.queued),
                has_background_work=bool(instance.background),
                is_pinned=session.state is not SessionState.LIVE,
            )
            for session, instance in self._living()
            if not instance.is_lost
        ]

    def leaving(self) -> set[SessionKey]:
        """The sessions whose instance is being stopped."""
        return {
            session.key for session, instance in self._living() if instance.state is InstanceState.STOPPING
        }

    def evict(self, instance_id: InstanceId) -> None:
        """Park an idle session because a waiter needs the slot."""
        for session, instance in self._living():
            if instance.id == instance_id and session.is_idle:
                session.idleness.park("evicted for somebody who waits")
                return

    def _living(self) -> Iterator[tuple[Session, Instance]]:
        for key in self._host.slots.holders:
            session = self._sessions.get(key)
            if session is not None and session.instance is not None:
                yield session, session.instance
