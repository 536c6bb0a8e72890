"""How much waits to be stored, and who is held up when the database takes nothing.

What a CLI prints is kept in memory until it is committed. While the database
is stuck that must not grow without bound: above a bound the session's
instance is held (its keeper gets no more credit, so the output stays in the
spool, and when that is full the CLI waits). Nothing is lost; it goes on when
the database does.
"""

from __future__ import annotations

from typing import Protocol

_SMALL_SHARE = 16


class Held(Protocol):
    """Whose output can be held up."""

    def hold(self, is_held: bool) -> None:
        """Take no more output; or take it again."""


class Account:
    """What one session has waiting, in bytes."""

    def __init__(self, backlog: Backlog, owner: Held) -> None:
        self.bytes = 0
        self.is_held = False
        self._backlog = backlog
        self._owner = owner

    def add(self, count: int) -> None:
        """So much more waits (less, when negative)."""
        self.bytes += count
        self._backlog.changed(self, count)

    def hold(self, is_held: bool) -> None:
        """Carry out what the backlog decides."""
        self.is_held = is_held
        self._owner.hold(is_held)


class Backlog:
    """All sessions' unstored bytes.

    A session is held above ``session_bytes``; above ``total_bytes`` everybody
    is who has more than a small share. They go on below half of that.
    """

    def __init__(self, session_bytes: int, total_bytes: int) -> None:
        self.total = 0
        self._session_bytes = session_bytes
        self._total_bytes = total_bytes
        self._held: set[Account] = set()

    @property
    def is_full(self) -> bool:
        """Does so much wait that nothing new should be begun?"""
        return self.total > self._total_bytes

    @property
    def held(self) -> int:
        """How many sessions are held up."""
        return len(self._held)

    def changed(self, account: Account, count: int) -> None:
        """``account`` has ``count`` bytes more than before."""
        was_full = self.is_full
        self.total += count
        if not account.is_held and self._is_above(account):
            self._held.add(account)
            account.hold(True)
        elif account.is_held and self._may_go_on(account):
            self._let_go(account)
        if was_full or count < 0:
            for other in [other for other in self._held if self._may_go_on(other)]:
                self._let_go(other)

    def _let_go(self, account: Account) -> None:
        self._held.discard(account)
        account.hold(False)

    def _is_above(self, account: Account) -> bool:
        if account.bytes > self._session_bytes:
            return True
        return self.is_full and account.bytes > self._session_bytes // _SMALL_SHARE

    def _may_go_on(self, account: Account) -> bool:
        if account.bytes > self._session_bytes // 2:
            return False
        return self.total <= self._total_bytes // 2 or account.bytes <= self._session_bytes // (
            2 * _SMALL_SHARE
        )
