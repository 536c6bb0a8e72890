"""The configuration in force: read again whenever its file has changed."""

from __future__ import annotations

import logging
from pathlib import Path

from server.gateway.settings import GatewayConfigError, GatewaySettings, config_path, read_gateway_config

_log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int, int, int] | None
_UNREAD: _Stamp = (0, 0, 0, 0, 0)


class LiveConfiguration:
    """Gives the settings to each call; costs one ``stat`` while nothing changes."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = config_path(data_dir)
        self._stamp = _UNREAD
        self._settings: GatewaySettings | None = None
        self._error = ""

    def current(self) -> GatewaySettings:
        """The settings of this moment. Raises ``GatewayConfigError`` while the file cannot be used."""
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp = stamp
            self._load()
        if self._settings is None:
            raise GatewayConfigError(self._error)
        return self._settings

    def _load(self) -> None:
        try:
            self._settings = read_gateway_config(self._data_dir)
        except GatewayConfigError as error:
            self._settings, self._error = None, str(error)
            _log.error("configuration refused", extra={"fields": {"reason": self._error}})
            return
        name, provider = self._settings.default()
        _log.info("configuration read", extra={"fields": {"provider": name, "kind": provider.kind}})

    def _stat(self) -> _Stamp:
        try:
            status = self._path.lstat()
        except OSError:
            return None
        # ctime too: a chmod or chown alone decides whether the file is accepted.
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_uid
