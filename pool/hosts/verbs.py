"""What a server may have the host program of another machine do, by name: the host's side."""

from __future__ import annotations

import fcntl
import time

from pool.config import PoolConfig
from pool.steward.hosting import Host
from pool.steward.service_user import service_uid
from pool.steward.verbs import Verbs

_PAUSE_SECONDS = 0.05
_MOST_SECONDS = 600.0


class HostVerbs(Verbs):
    """The steward's verbs; users have no uids where this program is not root."""

    def __init__(self, config: PoolConfig, host: Host) -> None:
        uid = service_uid(config) if host.local.isolation.has_uids else None
        super().__init__(config, host.files, host.local, uid)

    def alive(self) -> None:
        """The server is there."""

    def keeper_has_ended(self, *, seconds: float) -> bool:
        """Wait until no keeper holds the data directory; False when one still does after ``seconds``."""
        deadline = time.monotonic() + min(float(seconds), _MOST_SECONDS)
        path = self._config.data_dir / "keeper" / "lock"
        while True:
            try:
                with path.open("rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return True
            except FileNotFoundError:
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_PAUSE_SECONDS)
