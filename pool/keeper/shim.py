"""The parent of one CLI that has no pid namespace; run as a script of its own.

Usage: ``python -I -S shim.py LIFELINE_FD STATUS_FD PROGRAM ARGUMENT...``

It is the subreaper of everything that the CLI starts, so that nothing that
calls ``setsid`` or forks twice gets away. It ends the whole tree when the CLI
ends or when the lifeline, a pipe whose other end only the keeper holds, is
closed, and exits when nothing is left. On the status descriptor it tells::

    pid N            the CLI runs
    error N text     it could not be started; N is the errno
    code N           it exited
    signal N         it was ended by a signal

It imports nothing of the project: it may run under another interpreter path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_SECONDS = 0.02

# the shim exits with one of these only when nothing is left below it
EXIT_DONE = 0
EXIT_NOT_STARTED = 126
CLEAN_EXITS = (EXIT_DONE, EXIT_NOT_STARTED)


def main() -> int:
    """Run the program given in the arguments until its whole tree is gone."""
    lifeline, status = int(sys.argv[1]), int(sys.argv[2])
    program = sys.argv[3:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake = _wake_on_signals()
    # what the keeper or another user's kill(2) sends to us must not orphan the tree
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = _start(program, lifeline, status)
    if child is None:
        return EXIT_NOT_STARTED
    _tell(status, f"pid {child}")
    _leave_pipes_to_child()
    _watch(child, lifeline, status, wake)
    _end_tree(child, status)
    return EXIT_DONE


def _wake_on_signals() -> int:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return read_end


def _start(program: list[str], lifeline: int, status: int) -> int | None:
    """Fork and execute; the pid, or None after the failure was told on ``status``."""
    error_in, error_out = os.pipe()
    child = os.fork()
    if child == 0:
        _become(program, lifeline, status, error_out)
    os.close(error_out)
    failure = os.read(error_in, 512)
    os.close(error_in)
    if not failure:
        return child
    os.waitpid(child, 0)
    _tell(status, "error " + failure.decode(errors="replace"))
    return None


def _become(program: list[str], lifeline: int, status: int, error_out: int) -> None:
    """In the child: become the program. Never returns."""
    try:
        os.close(lifeline)
        os.close(status)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execv(program[0], program)
    except OSError as error:
        os.write(error_out, f"{error.errno} {error.strerror}".encode())
    finally:
        os._exit(127)


def _leave_pipes_to_child() -> None:
    """Close our copies of the CLI's pipes, so that their end is seen when the CLI ends."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _watch(child: int, lifeline: int, status: int, wake: int) -> None:
    """Return when the CLI has ended or the keeper is gone."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while not _reap(child, status):
        ready = [fd for fd, _mask in poll.poll()]
        if wake in ready:
            os.read(wake, 4096)
        if lifeline in ready:
            return


def _reap(child: int, status: int) -> bool:
    """Collect the dead; has ``child`` been among them?"""
    found = False
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = True
            code = os.waitstatus_to_exitcode(wait_status)
            _tell(status, f"code {code}" if code >= 0 else f"signal {-code}")


def _end_tree(child: int, status: int) -> None:
    """KILL our children until there are none; what they leave behind becomes ours next."""
    poll = select.poll()
    while True:
        # only direct children are signalled: nobody else can reap them, so
        # that their pids cannot be anybody else's
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap(child, status)
        if not _children():
            return
        poll.poll(_SWEEP_SECONDS * 1000)


def _children() -> list[int]:
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == me]


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _tell(status: int, line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(status, line.encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
