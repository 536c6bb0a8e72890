"""The keeper's log: one JSON object a line, in a file that never grows without bound."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

ROTATE_BYTES = 10 * 1024 * 1024


class Log:
    """Appends to ``path``; above ``rotate_bytes`` the file becomes ``path.1`` and a new one begins.

    A log that cannot be written (full disk) is silent: nothing may stop the
    keeper because its diary is full.
    """

    def __init__(self, path: Path, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._fd = -1

    def write(self, event: str, **fields: Any) -> None:
        """Add one entry. Fields are ids, numbers and short texts, never an environment or a turn."""
        entry = {"time": round(time.time(), 3), "pid": os.getpid(), "event": event, **fields}
        try:
            line = json.dumps(entry, default=str).encode() + b"\n"
            fd = self._open()
            os.write(fd, line)
            if os.fstat(fd).st_size > self._rotate_bytes:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
                self.close()
        except OSError:
            pass

    def exception(self, event: str, **fields: Any) -> None:
        """Add the exception that is being handled, with its traceback."""
        self.write(event, traceback=traceback.format_exc(limit=20), **fields)

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return self._fd
