"""May a user's next turn be accepted? Every limit on turns is asked here, in one synchronous step.

The figures behind the limits are gathered elsewhere and in the background:
a message never waits for a look at a disk or at ``/proc``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pool.config import Quota
from pool.errors import Refused, StoreUnavailable
from pool.model import UserId
from pool.policy.quota import TurnRate, check_queued_turns
from pool.runtime.surroundings import Surroundings

if TYPE_CHECKING:
    from pool.runtime.session import Session

Limit = Callable[[UserId, Quota], Refused | None]


class TurnRates:
    """The turns that each user had accepted in the last minute; who is quiet costs nothing."""

    def __init__(self) -> None:
        self._rates: OrderedDict[UserId, TurnRate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rates)

    def check(self, user_id: UserId, limit: int | None, now: float) -> Refused | None:
        """The refusal of a turn at ``now`` (monotonic seconds), or None. Takes nothing."""
        rate = self._rates.get(user_id)
        return (rate or TurnRate()).check(limit, now)

    def take(self, user_id: UserId, now: float) -> None:
        """Count a turn that is accepted at ``now``."""
        rate = self._rates.setdefault(user_id, TurnRate())
        rate.take(now)
        # In the order of their last turn: whoever is quiet for a minute stands in front.
        self._rates.move_to_end(user_id)
        while self._rates:
            first, rate = next(iter(self._rates.items()))
            rate.check(None, now)
            if not rate.is_empty:
                return
            del self._rates[first]


class TurnAdmission:
    """Decides about turns. ``limits`` are further ones, asked in order before those that are here."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.limits: list[Limit] = []
        self._around = surroundings
        self._rates = TurnRates()
        self._queueing: dict[UserId, set[Session]] = {}

    def restore(self, sessions: Iterable[Session]) -> None:
        """Count the turns that an earlier server left in the queues."""
        for session in sessions:
            if session.turns.queued:
                self._queueing.setdefault(session.key.user_id, set()).add(session)

    def queued_turns(self, user_id: UserId) -> int:
        """How many turns of a user wait, over all of their sessions."""
        sessions = {session for session in self._queueing.get(user_id, ()) if session.turns.queued}
        if sessions:
            self._queueing[user_id] = sessions
        else:
            self._queueing.pop(user_id, None)
        return sum(len(session.turns.queued) for session in sessions)

    def forget(self, session: Session) -> None:
        """The session leaves memory."""
        sessions = self._queueing.get(session.key.user_id)
        if sessions is not None:
            sessions.discard(session)
            if not sessions:
                del self._queueing[session.key.user_id]

    def admit(self, session: Session) -> None:
        """Count one turn more, which the caller puts into the session's queue before anything else.

        Raises ``PoolFull``, ``QuotaExceeded``, ``RateLimited``, ``QueueFull``,
        ``LaunchesPaused``, ``HostUnavailable`` or ``StoreUnavailable``; nothing was counted then.
        """
        user = session.key.user_id
        quota = self._around.config.quotas.for_user(user)
        now = self._around.clock.monotonic()
        session.host.check()
        if self._around.backlog.is_full:
            raise StoreUnavailable(
                "the database does not take what it is given; try again", retry_after_seconds=10
            )
        for limit in self.limits:
            _raise(limit(user, quota))
        _raise(check_queued_turns(self.queued_turns(user), quota))
        _raise(self._rates.check(user, quota.turns_per_minute, now))
        if session.instance is None:
            session.host.launches.check()
        session.host.slots.check(session.key, may_wait=True)
        self._rates.take(user, now)
        self._queueing.setdefault(user, set()).add(session)


def _raise(refusal: Refused | None) -> None:
    if refusal is not None:
        raise refusal
