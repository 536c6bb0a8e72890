"""Ends what a server left behind: its user's processes that no steward looks after any more.

One of them could still take connections from the listening socket, which is
handed on from server to server, and be there for the next one. Another
service's server of the same uid has a steward, and is let alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from pool.errors import Conflict

_SECONDS = 5.0
_PAUSE_SECONDS = 0.02
_LOCK = "/server.lock"


def end_strays(uid: int) -> None:
    """Kill them. Call it while no server of ours runs.

    Raises ``Conflict`` when they come faster than they go.
    """
    if os.getpid() != 1 and _is_steward(1):
        return  # of a container, whose server is below it
    deadline = time.monotonic() + _SECONDS
    while found := [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_stray(pid, uid)]:
        if time.monotonic() > deadline:
            raise Conflict(f"processes of uid {uid} that nobody looks after do not end: kill them")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                _kill(pid, uid)
        time.sleep(_PAUSE_SECONDS)


def _kill(pid: int, uid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        # held still, now that the number cannot become another's
        if _is_stray(pid, uid):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)


def _is_stray(pid: int, uid: int) -> bool:
    """Is it ``uid``'s, alive, and is the first process above it that is not ``uid``'s the first of all?"""
    facts = _facts(pid)
    if facts is None or uid not in facts[1]:
        return False
    while facts is not None and uid in facts[1]:
        pid = facts[0]
        facts = _facts(pid)
    return pid == 1


def _facts(pid: int) -> tuple[int, set[int]] | None:
    """Parent and uids of a living process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if facts["State"][0] in "ZX":
        return None
    return int(facts["PPid"]), set(map(int, facts["Uid"].split()))


def _is_steward(pid: int) -> bool:
    """Does it hold the lock of a data directory?"""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}").endswith(_LOCK):
                    return True
    return False
