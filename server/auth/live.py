"""Which open connections hang on which credential, so that its end is theirs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.auth.identity import Identity
from server.errors import TooManyConnections

REVOKED = 4401
"""The close code of a socket whose credential is not good any more."""

RESTARTING = 1012
"""The close code of a socket whose server stops or is replaced."""

# A timer of a year would only be in the way; a connection that old looks again.
_LONGEST_TIMER_SECONDS = 86400.0


@dataclass(eq=False, slots=True)
class LiveConnection:
    """A WebSocket or event stream that is open. ``end(code, reason)`` and ``tell(frame)`` must not block."""

    identity: Identity
    end: Callable[[int, str], None]
    tell: Callable[[bytes], None] | None = None
    timer: asyncio.TimerHandle | None = None


class LiveConnections:
    """All of them; add on opening, discard on closing."""

    def __init__(self, per_user: int | None = None) -> None:
        self._per_user = per_user
        self._open: set[LiveConnection] = set()
        self._seats: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def seat(self, identity: Identity) -> Iterator[None]:
        """Held by a socket or stream from before its answer begins. Raises ``TooManyConnections``."""
        user = identity.user_id
        if self._per_user is not None and self._seats[user] >= self._per_user:
            raise TooManyConnections(
                f"you have {self._per_user} open sockets and streams; close one first",
                retry_after_seconds=5,
                details={"limit": self._per_user},
            )
        self._seats[user] += 1
        try:
            yield
        finally:
            self._seats[user] -= 1
            if not self._seats[user]:
                del self._seats[user]

    def add(
        self,
        identity: Identity,
        end: Callable[[int, str], None],
        tell: Callable[[bytes], None] | None = None,
    ) -> LiveConnection:
        """Remember an open connection; give the result to ``discard`` when it is closed.

        It is ended by itself when the credential expires.
        """
        connection = LiveConnection(identity, end, tell)
        self._open.add(connection)
        self._watch_expiry(connection)
        return connection

    def tell_user(self, user_id: str, frame: bytes) -> None:
        """Send a frame to all open sockets of a user."""
        for connection in list(self._open):
            if connection.identity.user_id == user_id and connection.tell is not None:
                connection.tell(frame)

    def discard(self, connection: LiveConnection) -> None:
        """It is closed."""
        self._open.discard(connection)
        if connection.timer is not None:
            connection.timer.cancel()

    def end_token(self, token_id: str) -> None:
        """End all that this token opened."""
        self._end(lambda identity: identity.token_id == token_id, REVOKED, "signed out")

    def end_user(self, user_id: str) -> None:
        """End all of this user."""
        self._end(lambda identity: identity.user_id == user_id, REVOKED, "signed out")

    def end_all(self, code: int, reason: str) -> None:
        """End everything: the server goes."""
        self._end(lambda _: True, code, reason)

    def _end(self, chosen: Callable[[Identity], bool], code: int, reason: str) -> None:
        for connection in list(self._open):
            if chosen(connection.identity):
                connection.end(code, reason)

    def _watch_expiry(self, connection: LiveConnection) -> None:
        if connection.identity.expires_at is None:
            return
        left = connection.identity.expires_at - time.time()
        if left <= 0:
            connection.end(REVOKED, "the sign-in has expired")
            return
        loop = asyncio.get_running_loop()
        delay = min(left, _LONGEST_TIMER_SECONDS)
        connection.timer = loop.call_later(delay, self._watch_expiry, connection)
