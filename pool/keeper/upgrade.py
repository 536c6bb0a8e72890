"""The keeper replaces itself by the code that is installed now, in place and without letting go of anything.

First a child process of the new code reads the state and builds everything
from it, as the new image will (``--check``); only if that succeeds the state
is written again and the keeper calls ``execve``. Its pid, its children, its
descriptors and its being their subreaper stay. Signals wait meanwhile. Until
``execve`` a failure leaves the keeper as it was; a new image that fails all
the same ends everything that it holds and says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pool.keeper.entry import Call, HostError
from pool.keeper.handover import Packer, State
from pool.keeper.log import Log
from pool.keeper.loop import Loop
from pool.keeper.output import StderrTail
from pool.keeper.reaper import Reaper

STATE_OPTION = "--state-fd"
CHECK_OPTION = "--check"

_CHECK_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# what a server may set anew, by the option that the keeper was started with
_SETTINGS = {"lease_seconds": "--lease", "spool_max_bytes": "--spool-max", "segment_bytes": "--segment"}


class Upgrade:
    """See the module.

    ``pack`` gives the state of the whole keeper; ``may_not`` why not now, or
    None; ``on_going`` is called last.
    """

    def __init__(
        self,
        pack: Callable[[Packer, Call], State],
        may_not: Callable[[], str | None],
        on_going: Callable[[], None],
        *,
        loop: Loop,
        reaper: Reaper,
        log: Log,
    ) -> None:
        self._pack = pack
        self._may_not = may_not
        self._on_going = on_going
        self._loop = loop
        self._reaper = reaper
        self._log = log
        self._is_checking = False

    def begin(self, call: Call, request: Mapping[str, Any]) -> None:
        """Check the new code and go over to it; the new image answers ``call``. Raises ``HostError``."""
        reason = "another upgrade is under way" if self._is_checking else self._may_not()
        if reason is not None:
            raise HostError("busy", reason)
        command = next_command(sys.orig_argv, request)
        packer = Packer()
        state_fd = packer.write(self._pack(packer, call))
        stderr_read, stderr_write = os.pipe()
        try:
            child = subprocess.Popen(
                [*command, STATE_OPTION, str(state_fd), CHECK_OPTION],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr_write,
                pass_fds=(state_fd, *packer.descriptors),
                cwd="/",
            )
        except OSError as error:
            os.close(stderr_read)
            raise HostError("upgrade_refused", f"the new code cannot be started: {error}") from error
        finally:
            os.close(stderr_write)
            os.close(state_fd)
        child.returncode = 0  # the reaper collects it, Popen must not try
        os.set_blocking(stderr_read, False)
        stderr = StderrTail(self._loop, stderr_read)
        self._is_checking = True
        deadline = self._loop.call_later(_CHECK_SECONDS, lambda: os.kill(child.pid, signal.SIGKILL))

        def checked(wait_status: int) -> None:
            self._is_checking = False
            deadline.cancel()
            stderr.close()
            self._checked(call, command, wait_status, stderr.text())

        self._reaper.adopt(child.pid, checked)

    def _checked(self, call: Call, command: Sequence[str], wait_status: int, text: str) -> None:
        if wait_status != 0:
            code = os.waitstatus_to_exitcode(wait_status)
            self._refuse(call, f"the new code cannot take over ({code}): {text.strip()[-2000:]}")
            return
        # in a step of its own: whoever is at work in this one has not written its state down
        self._loop.call_soon(lambda: self._go_over(call, command))

    def _go_over(self, call: Call, command: Sequence[str]) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        packer = Packer()
        try:
            # those that came before are acted on here, the others by the next image
            self._loop.take_signals()
            reason = self._may_not()
            if reason is None:
                self._execute(packer, call, command)
            self._refuse(call, reason)
        except OSError as error:
            self._refuse(call, f"the new code cannot be executed: {error}")
        finally:
            for fd in packer.descriptors:
                os.set_inheritable(fd, False)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _execute(self, packer: Packer, call: Call, command: Sequence[str]) -> NoReturn:
        state_fd = packer.write(self._pack(packer, call))
        try:
            self._log.write("keeper_upgrades", command=list(command))
            for fd in (state_fd, *packer.descriptors):
                os.set_inheritable(fd, True)
            self._on_going()
            os.execv(command[0], [*command, STATE_OPTION, str(state_fd)])
        finally:
            os.close(state_fd)

    def _refuse(self, call: Call, reason: str | None) -> None:
        self._log.write("upgrade_refused", reason=reason)
        call.error("upgrade_refused", str(reason))


def next_command(argv: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The command line of the next image: this one's, with other settings where they are given."""
    # the installed interpreter, not the file that it was before an installation replaced it
    command = [sys.executable]
    words = iter(argv[1:])
    for word in words:
        if word == STATE_OPTION:
            next(words, None)
        elif word != "--detach":
            command.append(word)
    for name, option in _SETTINGS.items():
        value = settings.get(name)
        if value is not None and option in command:
            command[command.index(option) + 1] = repr(float(value) if name == "lease_seconds" else int(value))
    return command


def release_signals() -> None:
    """In the new image, once its handlers are there: let the signals through that waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)


def die_with_parent() -> None:
    """In the check: hold no descriptor of an instance longer than the keeper does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent == 1 or os.getppid() != parent:
        os._exit(1)
