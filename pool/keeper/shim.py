"""The parent of one CLI that has no pid namespace; run as a script of its own.

Usage: ``python -I -S shim.py LIFELINE_FD STATUS_FD RIGHTS PROGRAM ARGUMENT...``

RIGHTS is a JSON object: ``uid`` (null: ours), ``limits`` and ``filter`` are what
``rights.py`` says; the program gets them before it begins, the shim stays who it is.
``filter`` and ``env``, the program's environment, are open descriptors; a keeper of
before that says the filter's path, and its environment is ours.
``cwd`` is where the program begins: it goes there itself, with its rights, so that
nobody else waits for a disk that does not answer.

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
import json
import os
import resource
import select
import signal
import sys

# not imported from typing, which would be a fifth of this program's start
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8
_SWEEP_SECONDS = 0.02

# the shim exits with one of these only when nothing is left below it
EXIT_DONE = 0
EXIT_NOT_STARTED = 126
CLEAN_EXITS = (EXIT_DONE, EXIT_NOT_STARTED)


def main() -> int:
    """Run the program given in the arguments until its whole tree is gone."""
    lifeline, status = int(sys.argv[1]), int(sys.argv[2])
    rights, program = json.loads(sys.argv[3]), sys.argv[4:]
    rights["env"] = _environment(rights.get("env"))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake = _wake_on_signals()
    # what the keeper or another user's kill(2) sends to us must not orphan the tree
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = _start(program, rights, lifeline, status)
    if child is None:
        return EXIT_NOT_STARTED
    _tell(status, f"pid {child}")
    _leave_pipes_to_child()
    _watch(child, lifeline, status, wake)
    _end_tree(child, status)
    return EXIT_DONE


def _environment(told: int | None) -> dict[str, str] | None:
    if told is None:
        return None
    with open(told, "rb") as file:
        env: dict[str, str] = json.loads(file.read())
    return env


def _wake_on_signals() -> int:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return read_end


def _start(program: list[str], rights: dict[str, Any], lifeline: int, status: int) -> int | None:
    """Fork and execute; the pid, or None after the failure was told on ``status``."""
    error_in, error_out = os.pipe()
    child = os.fork()
    if child == 0:
        _become(program, rights, lifeline, status, error_out)
    os.close(error_out)
    failure = _failure(error_in, lifeline)
    os.close(error_in)
    if failure is None:
        _end_tree(child, status)
        return None
    if not failure:
        return child
    os.waitpid(child, 0)
    _tell(status, "error " + failure.decode(errors="replace"))
    return None


def _failure(error_in: int, lifeline: int) -> bytes | None:
    """Why the child did not become the program, empty when it did; None: the keeper gave up before."""
    poll = select.poll()
    poll.register(error_in, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while True:
        ready = [fd for fd, _mask in poll.poll()]
        if error_in in ready:
            return os.read(error_in, 512)
        if lifeline in ready:
            return None


def _become(program: list[str], rights: dict[str, Any], lifeline: int, status: int, error_out: int) -> None:
    """In the child: become the program. Never returns."""
    try:
        os.close(lifeline)
        os.close(status)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _take(rights)
        _enter(rights.get("cwd"))
        if rights["env"] is None:
            os.execv(program[0], program)
        os.execve(program[0], program, rights["env"])
    except (OSError, ValueError, TypeError) as error:
        code, text = getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or error
        os.write(error_out, f"{code} {text}".encode())
    finally:
        os._exit(127)


def _take(rights: dict[str, Any]) -> None:
    """Give up what the program is not to have; any failure is an ``OSError`` or ``ValueError``."""
    rules = b""
    if rights.get("filter") is not None:
        with open(rights["filter"], "rb") as file:
            rules = file.read()
    for name, value in rights.get("limits", {}).items():
        which = getattr(resource, f"RLIMIT_{name.upper()}")
        hard = resource.getrlimit(which)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (allowed, allowed))
    uid = rights.get("uid")
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.umask(0o077)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)
    if rules:
        _filter_calls(rules)


def _enter(directory: str | None) -> None:
    """Go to where the program begins; a keeper of before this was asked for is there already."""
    if directory is None:
        return
    try:
        os.chdir(directory)
    except OSError as error:
        raise OSError(error.errno, f"{directory} cannot be entered: {error.strerror}") from error


def _filter_calls(rules: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    program = Program(len(rules) // _INSTRUCTION_BYTES, rules)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _prctl(option: int, first: int, second: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_ulong(each) for each in (first, second, 0, 0))
    if libc.prctl(ctypes.c_int(option), *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


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
