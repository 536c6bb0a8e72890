"""The steward as a process: starts the server as its own user, serves it, passes signals on, ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from pool.keeper.service_user import as_service_user
from pool.steward.client import VARIABLE
from pool.steward.service import Service, Verb

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Steward:
    """One run of a server. ``descriptors`` are inherited by it; of directories that are closed to ``uid``
    it sees what is ``shown``."""

    def __init__(
        self,
        uid: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        descriptors: Sequence[int],
        shown: Sequence[Path],
        verbs: Mapping[str, Verb],
    ) -> None:
        self._uid = uid
        self._command = as_service_user(uid, command, shown=shown)
        self._environment = environment
        self._descriptors = descriptors
        self._verbs = verbs

    def run(self) -> int:
        """Until the server has ended: its exit code, or minus the signal that ended it."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                # in a session of its own, so that a Ctrl-C comes once: from us
                child = subprocess.Popen(
                    self._command,
                    env={**self._environment, VARIABLE: str(theirs.fileno())},
                    pass_fds=(*self._descriptors, theirs.fileno()),
                    start_new_session=True,
                )
            # not yet waited for, so it is still the child's number, and never another's later
            process = os.pidfd_open(child.pid)
            try:
                with _passing_on(partial(_send, process)):
                    threading.Thread(
                        target=Service(ours, self._verbs).run, name="steward", daemon=True
                    ).start()
                    return child.wait()
            finally:
                os.close(process)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


@contextlib.contextmanager
def _passing_on(send: Callable[[int], None]) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        send(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
