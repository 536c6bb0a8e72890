"""Which open connections hang on which credential, so that revoking one ends them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.auth.identity import Identity

REVOKED = 4401
"""The close code of a socket whose credential is not good any more."""


@dataclass(eq=False, slots=True)
class LiveConnection:
    """A WebSocket or event stream that is open. ``end(code, reason)`` must not block."""

    identity: Identity
    end: Callable[[int, str], None]


class LiveConnections:
    """All of them; add on opening, discard on closing."""

    def __init__(self) -> None:
        self._open: set[LiveConnection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, identity: Identity, end: Callable[[int, str], None]) -> LiveConnection:
        """Remember an open connection; give the result to ``discard`` when it is closed."""
        connection = LiveConnection(identity, end)
        self._open.add(connection)
        return connection

    def discard(self, connection: LiveConnection) -> None:
        """It is closed."""
        self._open.discard(connection)

    def end_token(self, token_id: str) -> None:
        """End all that this token opened."""
        self._end(lambda identity: identity.token_id == token_id, REVOKED, "signed out")

    def end_user(self, user_id: str) -> None:
        """End all of this user."""
        self._end(lambda identity: identity.user_id == user_id, REVOKED, "the account is disabled")

    def end_all(self, code: int, reason: str) -> None:
        """End everything: the server goes."""
        self._end(lambda _: True, code, reason)

    def _end(self, chosen: Callable[[Identity], bool], code: int, reason: str) -> None:
        for connection in list(self._open):
            if chosen(connection.identity):
                connection.end(code, reason)
