"""Collects every dead child: the keeper's own, and the orphans that fall to it as a subreaper."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

from pool.keeper import procfs
from pool.keeper.handover import State
from pool.keeper.loop import Loop

_PR_SET_CHILD_SUBREAPER = 36


class Reaper:
    """Tells each owner how its child ended. ``status`` is as ``os.waitpid`` gives it."""

    def __init__(self, loop: Loop) -> None:
        self._owners: dict[int, Callable[[int], None]] = {}
        self._unheeded: set[int] = set()
        loop.on_signal(signal.SIGCHLD, self.reap)

    def adopt(self, pid: int, on_exit: Callable[[int], None]) -> None:
        """``pid`` is a child just started; call ``on_exit(status)`` once it is reaped."""
        self._owners[pid] = on_exit

    def adopt_unheeded(self, pid: int) -> None:
        """``pid`` is a child just started; only collect it."""
        self._unheeded.add(pid)

    def to_state(self) -> State:
        """The children without an owner; owners adopt theirs again."""
        return {"unheeded": sorted(self._unheeded)}

    def restore(self, state: State) -> None:
        """The way back."""
        self._unheeded = set(state["unheeded"])

    def reap(self) -> None:
        """Collect all that are dead now."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._unheeded.discard(pid)
            owner = self._owners.pop(pid, None)
            if owner is not None:
                owner(status)

    def strangers(self) -> list[procfs.Stat]:
        """Living orphans that fell to the keeper, with all below them.

        What a tree loses by ``setsid`` and double forks comes here when the
        tree's own subreaper was killed. Nothing that belongs to anybody else
        can ever be a child of the keeper.
        """
        own = [pid for pid in procfs.children(os.getpid()) if pid not in self._owners.keys() | self._unheeded]
        found = [stat for stat in map(procfs.read_stat, own) if stat is not None and stat.is_alive]
        return found + procfs.descendants(own)


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
