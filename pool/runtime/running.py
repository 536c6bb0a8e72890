"""How many turns of a user run at once: the next one begins when one has ended, in the order of asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pool.config import QuotaBook
from pool.model import UserId

if TYPE_CHECKING:
    from pool.runtime.session import Session


class RunningTurns:
    """Counted from the sessions whose own turn was handed over and has not ended."""

    def __init__(self, quotas: QuotaBook) -> None:
        self._quotas = quotas
        self._running: dict[UserId, set[Session]] = {}
        self._waiting: dict[UserId, dict[Session, None]] = {}

    def count(self, user_id: UserId) -> int:
        """How many run now."""
        return len(self._running.get(user_id, ()))

    def may_begin(self, session: Session) -> bool:
        """May a turn of ``session`` begin now? If not, it is asked again when one of the user's has ended."""
        user = session.key.user_id
        limit = self._quotas.for_user(user).max_running_turns
        if limit is None or self.count(user) < limit:
            return True
        self._waiting.setdefault(user, {})[session] = None
        return False

    def began(self, session: Session) -> None:
        """A turn was handed to the session's instance."""
        self._running.setdefault(session.key.user_id, set()).add(session)

    def ended(self, session: Session) -> None:
        """The session's turn has ended: others of the user may begin. Again: no effect."""
        user = session.key.user_id
        running = self._running.get(user)
        if running is None or session not in running:
            return
        running.discard(session)
        if not running:
            del self._running[user]
        for other in self._waiting.pop(user, {}):  # who still may not stands in line again, in this order
            other.dispatch_next()
