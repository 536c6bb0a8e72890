"""The lock on the data directory: one server, or one command beside no server, at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_NAME = "server.lock"
_HOST = "host"


class HeldElsewhere(Exception):
    """Another process has the data directory; ``pid`` is its, when it is known.

    ``is_host``: it is the host program of a server elsewhere.
    """

    def __init__(self, data_dir: Path, pid: int | None, *, is_host: bool = False) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        what = f"{holder}, the host program of a server elsewhere" if is_host else holder
        super().__init__(f"the data directory {data_dir} is in use by {what}")
        self.pid = pid
        self.is_host = is_host


class DataLock:
    """Held from construction to ``release``; the kernel lets go of it when the process dies."""

    def __init__(self, data_dir: Path, *, inherited: int | None = None, is_host: bool = False) -> None:
        """Raises ``HeldElsewhere``. ``inherited`` is a descriptor that holds the lock already.

        ``is_host``: for the host program of a server elsewhere.
        """
        if inherited is not None:
            os.set_inheritable(inherited, False)
            self.descriptor = inherited
        else:
            self.descriptor = _acquire(data_dir)
        os.ftruncate(self.descriptor, 0)
        mark = f" {_HOST}" if is_host else ""
        os.pwrite(self.descriptor, f"{os.getpid()}{mark}\n".encode(), 0)

    def release(self) -> None:
        """Let the next one in."""
        os.close(self.descriptor)


def _acquire(data_dir: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(data_dir / LOCK_NAME, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid, _, mark = os.pread(descriptor, 32, 0).decode(errors="replace").strip().partition(" ")
        os.close(descriptor)
        raise HeldElsewhere(data_dir, int(pid) if pid.isdigit() else None, is_host=mark == _HOST) from None
    return descriptor
