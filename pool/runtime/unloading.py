"""Sessions leave memory when nobody needs them; whoever comes back finds them in the store.

A pool is asked about many sessions and works on few: memory must follow those
that are used, not all that were ever looked at since the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pool.model import SessionState
from pool.runtime.supervisor import Supervisor

if TYPE_CHECKING:
    from pool.runtime.session import Session

_RESTING = (SessionState.PARKED, SessionState.FAULTED, SessionState.ARCHIVED)


class Unloading:
    """Drops sessions that rest, that nobody follows and that nobody asked for ``unload_seconds`` long.

    Those that were not asked for so long and must stay keep only few of their
    newest frames in memory. ``forget`` is told of each, for whoever else keeps them. 0 seconds: never.
    """

    def __init__(self, supervisor: Supervisor, forget: Callable[[Session], None]) -> None:
        self._supervisor = supervisor
        self._around = supervisor.around
        self._forget = forget

    async def look(self) -> None:
        """Drop who may go and let the others rest, in one step: nobody can come in between."""
        after = self._around.config.unload_seconds
        if after <= 0:
            return
        before = self._around.clock.monotonic() - after
        for session in list(self._supervisor.sessions.values()):
            if session.used_at > before:
                continue
            if self.drop(session):
                self._around.counters.unloaded.add()
            elif session.turns.open_turn is None:
                session.channel.rest()

    def drop(self, session: Session) -> bool:
        """Let the session leave memory if nothing needs it; did it?"""
        if not may_leave(session) or not self._supervisor.unload(session):
            return False
        self._forget(session)
        return True


@contextmanager
def held(session: Session) -> Iterator[None]:
    """The session stays in memory while somebody works with it over a wait."""
    session.holders += 1
    try:
        yield
    finally:
        session.holders -= 1


def may_leave(session: Session) -> bool:
    """Is everything about it in the store, and does nobody hold it?"""
    return (
        session.state in _RESTING
        and session.instance is None
        and not session.waking.is_under_way
        and session.turns.open_turn is None
        and not session.turns.queued
        and not session.approvals.has_open
        and not session.channel.subscriptions
        and not session.accepting.locked()
        and session.holders == 0
        and session.log.is_settled
    )
