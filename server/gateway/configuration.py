"""The configuration in force: a file is read again whenever it has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from server.gateway.budgets import BudgetBook, budgets_path, read_budgets
from server.gateway.elsewhere import Elsewhere, elsewhere_path, read_elsewhere
from server.gateway.forgotten import Forgotten, forgotten_path, read_forgotten
from server.gateway.own_keys import OwnKeys, Sealed, own_keys_path
from server.gateway.settings import GatewayConfigError, GatewaySettings, config_path, read_gateway_config

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Stamp = tuple[int, int, int, int, int] | None
_UNREAD: _Stamp = (0, 0, 0, 0, 0)


class LiveFile(Generic[_T]):
    """Gives what is in a file to each call; costs one ``stat`` while nothing changes."""

    def __init__(self, path: Path, load: Callable[[], _T]) -> None:
        self._path = path
        self._load_file = load
        self._stamp = _UNREAD
        self._value: _T | None = None
        self._error = ""

    def current(self) -> _T:
        """What holds at this moment. Raises ``GatewayConfigError`` while the file cannot be used."""
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp = stamp
            self._load()
        if self._value is None:
            raise GatewayConfigError(self._error)
        return self._value

    def _load(self) -> None:
        try:
            self._value = self._load_file()
        except GatewayConfigError as error:
            self._value, self._error = None, str(error)
            fields = {"file": self._path.name, "reason": self._error}
            _log.error("configuration refused", extra={"fields": fields})

    def _stat(self) -> _Stamp:
        try:
            status = self._path.lstat()
        except OSError:
            return None
        # ctime too: a chmod or chown alone decides whether the file is accepted.
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_uid


class LiveConfiguration(LiveFile[GatewaySettings]):
    """The providers."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(config_path(data_dir), lambda: _read_providers(data_dir))


class LiveBudgets(LiveFile[BudgetBook]):
    """The users' limits."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(budgets_path(data_dir), lambda: read_budgets(data_dir))


class LiveForgotten(LiveFile[Forgotten]):
    """The names of deleted users."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(forgotten_path(data_dir), lambda: read_forgotten(data_dir))


class LiveElsewhere(LiveFile[Elsewhere]):
    """What teams have used on other machines."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(elsewhere_path(data_dir), lambda: read_elsewhere(data_dir))


class LiveOwnKeys(LiveFile[Sealed]):
    """The keys that users brought, still encrypted."""

    def __init__(self, data_dir: Path) -> None:
        self._keys = OwnKeys(data_dir)
        super().__init__(own_keys_path(data_dir), self._keys.sealed)

    def of(self, user: str, provider: str) -> str | None:
        """A user's key for a provider in the clear. Raises ``GatewayConfigError``."""
        return self._keys.opened(self.current(), user, provider)


def _read_providers(data_dir: Path) -> GatewaySettings:
    settings = read_gateway_config(data_dir)
    name, provider = settings.default()
    _log.info("configuration read", extra={"fields": {"provider": name, "kind": provider.kind}})
    return settings
