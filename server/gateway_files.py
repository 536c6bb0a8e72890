"""What the server reads and writes in the model gateway's directories, which may be another user's.

It is one class because a server that is not root has its steward do the same.
Blocking: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.errors import BadRequest, Conflict, NotFound
from server.gateway.elsewhere import write_elsewhere
from server.gateway.forgotten import forget_user
from server.gateway.own_keys import OwnKeys
from server.gateway.settings import GatewayConfigError, describe, is_credential, read_shown_providers
from server.gateway.usage_journal import Entry, journal_files, read_entries

AT_ONCE = 8 * 1024 * 1024
"""About so many bytes of the journal are read at once."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a file of the usage journal: its name, where it begins and ends, what is in it."""

    file: str
    start: int
    end: int
    entries: Sequence[Entry]


class GatewayFiles:
    """Of one data directory. Every method raises ``Conflict`` for files that cannot be used; one
    process at a time may write."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._keys = OwnKeys(data_dir)

    def settle(self) -> None:
        """Bring files of an earlier version to where they belong. Raises ``OSError``."""
        self._keys.settle()

    def describe(self) -> dict[str, Any]:
        """Which model answers: see ``server.gateway.settings.describe``."""
        return describe(self._data_dir)

    def describe_to(self, user_id: str) -> dict[str, Any]:
        """Which model answers this user."""
        return self.describe()

    def bear_in_mind(self, user_id: str) -> None:
        """The user is about to be forgotten by who knows where they live."""

    def own_keys_of(self, user_id: str) -> dict[str, bool]:
        """The providers that take own keys: has this user brought one?"""
        try:
            mine = self._keys.providers_of(user_id)
            return {name: name in mine for name in self._open_providers()}
        except (GatewayConfigError, OSError) as error:
            raise _unusable(error) from error

    def put_own_key(self, user_id: str, provider: str, key: str) -> None:
        """Keep a user's key. Raises ``NotFound`` for a provider that takes none, ``BadRequest``."""
        if not key or not is_credential(key):
            raise BadRequest("a key has no white space and only printable ASCII characters")
        try:
            if provider not in self._open_providers():
                raise NotFound(f"there is no provider {provider} that takes own keys")
            self._keys.put(user_id, provider, key)
        except (GatewayConfigError, OSError) as error:
            raise _unusable(error) from error

    def remove_own_key(self, user_id: str, provider: str | None) -> bool:
        """Forget a user's key for a provider, None: all of them. False if there was none."""
        try:
            return self._keys.remove(user_id, provider)
        except (GatewayConfigError, OSError) as error:
            raise _unusable(error) from error

    def grown(self, offsets: Mapping[str, int], about_bytes: int = AT_ONCE) -> list[Stretch]:
        """The next stretch of files of the journal that have more whole lines than ``offsets`` say.

        Each is of a MiB at most; no more of them once there are ``about_bytes``.
        """
        found: list[Stretch] = []
        for path in journal_files(self._data_dir):
            stretch = _next_of(path, offsets.get(path.name, 0))
            if stretch is not None:
                found.append(stretch)
                about_bytes -= stretch.end - stretch.start
            if about_bytes <= 0:
                break
        return found

    def finished(self, offsets: Mapping[str, int], before: float) -> list[str]:
        """Files of the journal last written before ``before`` of which everything whole was taken in."""
        return [
            path.name
            for path in journal_files(self._data_dir)
            if path.name in offsets
            and path.stat().st_mtime < before
            and _next_of(path, offsets[path.name]) is None
        ]

    def remove_journal(self, file: str) -> None:
        """Remove a file of the journal. Raises ``BadRequest`` for what is none, ``OSError``."""
        for path in journal_files(self._data_dir):
            if path.name == file:
                path.unlink(missing_ok=True)
                return
        if "/" in file:
            raise BadRequest("not a file of the journal")

    def forget_user(self, user_id: str, at: float) -> None:
        """Have the gateway count nothing of what was used until ``at``. Raises ``OSError``."""
        try:
            forget_user(self._data_dir, user_id, at)
        except GatewayConfigError as error:
            raise Conflict(str(error)) from error

    def put_team_use(self, teams: Mapping[str, Any]) -> None:
        """Tell the gateway what teams used on other machines: by name, see ``server.gateway.elsewhere``.

        Raises ``OSError``.
        """
        try:
            write_elsewhere(self._data_dir, teams)
        except GatewayConfigError as error:
            raise Conflict(str(error)) from error

    def _open_providers(self) -> list[str]:
        return [name for name, one in read_shown_providers(self._data_dir).items() if one.own_keys]


def _next_of(path: Path, start: int) -> Stretch | None:
    with suppress(FileNotFoundError):
        if path.stat().st_size > start:
            entries, end = read_entries(path, start)
            if end > start:
                return Stretch(path.name, start, end, entries)
    return None


def _unusable(error: Exception) -> Conflict:
    return Conflict(f"the keys cannot be kept: {error}")
