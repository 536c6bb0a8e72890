"""Which message ids a session has seen: a look at the store is spared while there are few."""

from __future__ import annotations

from collections.abc import Iterable

_MOST = 1000


class MessageIds:
    """Says for sure that an id is new, while all of them are remembered; else the store must be asked."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._ids: set[str] | None = set()

    def add(self, *message_ids: str) -> None:
        """Remember more. Above the bound they are all let go: a session may live for years."""
        if self._ids is not None:
            self._ids.update(message_ids)
            if len(self._ids) > self._most:
                self._ids = None

    def update(self, message_ids: Iterable[str]) -> None:
        """As ``add``."""
        self.add(*message_ids)

    def may_have(self, message_id: str) -> bool:
        """False when the id is new; True when it is known, or nobody remembers."""
        return self._ids is None or message_id in self._ids
