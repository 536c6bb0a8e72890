"""One host program at a time on one data directory: a new one ends an older one that still holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from pool.errors import Conflict
from pool.steward.verbs import has_open

_LOCK = "host.lock"
_SECONDS = 10.0
_PAUSE_SECONDS = 0.02


def take_place(data_dir: Path, seconds: float = _SECONDS) -> int:
    """The descriptor of the lock, which is to be kept until this process ends.

    Whoever has it gets KILL: what a host program does may end at any moment. Blocking, for
    ``seconds`` at most. Raises ``Conflict`` when it does not go, ``OSError``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(data_dir / _LOCK, flags, 0o600)
    deadline = time.monotonic() + seconds
    while not _is_taken(lock):
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
        if time.monotonic() > deadline:
            os.close(lock)
            raise Conflict(f"the host program that has {data_dir} (process {holder}) does not end: kill it")
        if holder.isdigit():
            _end(int(holder), lock)
        time.sleep(_PAUSE_SECONDS)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(pid: int, lock: int) -> None:
    if pid == os.getpid():
        return
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            # held still, now that it cannot be mistaken for a later process
            if has_open(pid, os.fstat(lock)):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
