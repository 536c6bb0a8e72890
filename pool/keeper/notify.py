"""What a service tells systemd of itself (``sd_notify``), if it was started by it; else nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

_WAIT_SECONDS = 0.5


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` of ``environment`` names.

    A manager that reads nothing is waited for as long as half a second, for
    ``alive`` not at all.

    ``watchdog_seconds`` is how often ``alive`` is to be called, None when
    nobody counts on it: half of ``WATCHDOG_USEC``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # a name that begins with @ is in the abstract namespace
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environment) if address else None

    def ready(self, status: str) -> None:
        """It serves now; also the end of ``reloading``."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It makes room for its next image, in the same process."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """It ends, and may need so many seconds for it."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def alive(self) -> None:
        """Its loop turns."""
        self._send("WATCHDOG=1", wait=0.0)

    def _send(self, *lines: str, wait: float = _WAIT_SECONDS) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(wait)
            sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    try:
        interval = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000
        is_ours = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return interval / 2 if is_ours and interval > 0 else None
