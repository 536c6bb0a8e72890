"""Helper processes of a session (terminals and the like): registered, counted, ended with it.

Only a descendant of ours can be registered, and only through a pidfd that was
opened before its ancestry was checked, so that a reused pid is never taken
for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from pool.errors import BadRequest, Conflict
from pool.model import SessionKey
from pool.runtime import figures


@dataclass(slots=True)
class HelperProcess:
    """A registered process; ``pidfd`` tells when it has ended and is the only way it is signalled."""

    key: SessionKey
    pid: int
    kind: str
    pidfd: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """Has it not ended?"""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)


class HelperProcesses:
    """The registered processes of one pool. ``ancestors`` are the pids that are ours."""

    def __init__(self) -> None:
        self.ancestors: set[int] = {os.getpid()}
        self._processes: dict[tuple[SessionKey, int], HelperProcess] = {}

    def register(self, key: SessionKey, pid: int, kind: str) -> HelperProcess:
        """Take ``pid`` into the session's account.

        Raises ``BadRequest`` for a process that is not ours or is gone,
        ``Conflict`` for one that is registered already.
        """
        if (key, pid) in self._processes and self._processes[key, pid].is_alive:
            raise Conflict(f"process {pid} is registered already")
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise BadRequest(f"there is no process {pid}") from error
        ticks = figures.start_ticks(pid)
        if ticks is None or not figures.is_descendant(pid, self.ancestors):
            os.close(pidfd)
            raise BadRequest(f"process {pid} is not a descendant of this pool")
        self._drop(key, pid)
        process = HelperProcess(key, pid, kind, pidfd, ticks)
        self._processes[key, pid] = process
        return process

    def unregister(self, key: SessionKey, pid: int) -> bool:
        """Forget ``pid`` without ending it; False when it was not registered."""
        return self._drop(key, pid)

    def of(self, keys: Iterable[SessionKey]) -> list[HelperProcess]:
        """The living processes of these sessions; dead ones are forgotten."""
        wanted = set(keys)
        for key, pid in [at for at, process in self._processes.items() if not process.is_alive]:
            self._drop(key, pid)
        return [process for process in self._processes.values() if process.key in wanted]

    def of_user(self, user_id: str) -> list[HelperProcess]:
        """The living processes of all sessions of a user."""
        return self.of({key for key, _pid in self._processes if key.user_id == user_id})

    def end(self, key: SessionKey) -> None:
        """KILL what the session registered."""
        for process in self.of([key]):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            self._drop(key, process.pid)

    def aclose(self) -> None:
        """Forget all, closing the descriptors."""
        for key, pid in list(self._processes):
            self._drop(key, pid)

    def _drop(self, key: SessionKey, pid: int) -> bool:
        process = self._processes.pop((key, pid), None)
        if process is None:
            return False
        os.close(process.pidfd)
        return True
