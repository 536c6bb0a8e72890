"""Starts one wrapped CLI; ``identifier`` finds out which process it is.

The wrapper is bubblewrap, which tells its namespace's init on an info
descriptor, or the shim, which tells the CLI's pid on a status descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.keeper import procfs
from pool.keeper.handover import State, Unpacker
from pool.keeper.opening import open_file, open_log
from pool.keeper.rights import Rights

BWRAP = "bwrap"
SHIM = "shim"
OURS = Rights()

_PIPE_BYTES = 1024 * 1024
_SHIM_COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).with_name("shim.py")))
_NETWORK_PATH = Path(__file__).with_name("network.py")
_LOG = "{log_fd}"
_OWN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# captured before the keeper raises its own: programs that use select() need the low one
_FILE_LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)
# kept free, because a keeper without descriptors cannot even look what is alive
_SPARE_FILES = 64
# of 1000: well above any service's
_INSTANCE_OOM_SCORE = 500


class SpawnError(Exception):
    """The wrapper could not be started; ``step`` says where."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True)
class Spawned:
    """The wrapper's pid and our ends of its pipes; ``lifeline`` is -1 for bubblewrap.

    ``prelude`` is the name of a program that bubblewrap runs first and that becomes the CLI.
    """

    pid: int
    stdin: int
    stdout: int
    stderr: int
    report: int
    lifeline: int
    prelude: str = ""
    has_shim: bool = False

    def to_state(self) -> State:
        """The rest; the pipes go with those who hold them."""
        return {"pid": self.pid, "prelude": self.prelude, "has_shim": self.has_shim}


def spawned_of(state: State, unpacker: Unpacker) -> Spawned:
    """What an ``Instance.to_state`` says of its wrapper and our ends of the pipes."""
    rest = state["spawned"]
    return Spawned(
        pid=rest["pid"],
        stdin=unpacker.descriptor(state["intake"]["fd"]),
        stdout=unpacker.descriptor(state["output"]["fd"]),
        stderr=unpacker.descriptor(state["stderr"]["fd"]),
        report=unpacker.descriptor(state["report"]["fd"]),
        lifeline=unpacker.descriptor(state["lifeline"]),
        prelude=rest["prelude"],
        has_shim=rest["has_shim"],
    )


def file_limits() -> tuple[int, int]:
    """The limits of open files that instances get: those that the first keeper was started with."""
    return _FILE_LIMITS


def raise_file_limit(inherited: tuple[int, int] | None = None) -> None:
    """Let the keeper itself open as many descriptors as the hard limit allows.

    ``inherited`` are the ``file_limits`` of the image before, which had raised its own already.
    """
    global _FILE_LIMITS  # noqa: PLW0603 - a fact of the process, known only after a hand-over
    if inherited is not None:
        _FILE_LIMITS = inherited
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILE_LIMITS[1], _FILE_LIMITS[1]))


def has_files_left() -> bool:
    """Are there enough descriptors left to take on more?"""
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        return False
    return used + _SPARE_FILES <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def spawn(
    wrapper: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    files: Mapping[str, str] | None = None,
    prelude: str = "",
    network: Mapping[str, Any] | None = None,
    rights: Rights = OURS,
) -> Spawned:
    """Start ``argv`` under the wrapper with exactly ``env``.

    ``files`` maps placeholders, which are whole words of ``argv``, to the
    paths of files that the wrapper gets open for reading; each placeholder
    becomes its file's descriptor. ``prelude``: see ``Spawned``; ``network``:
    the settings of ``network.py``, for bubblewrap only; ``rights``: as whom it runs.
    ``cwd`` is entered by what is started and never here: its disk may not answer.
    Raises ``SpawnError``; nothing is left open then.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        try:
            stdin_read, stdin_write = _pipe(ours, theirs, parent_reads=False)
            stdout_read, stdout_write = _pipe(ours, theirs, parent_reads=True)
            stderr_read, stderr_write = _pipe(ours, theirs, parent_reads=True)
            report_read, report_write = _pipe(ours, theirs, parent_reads=True)
            lifeline_read, lifeline_write = -1, -1
            if wrapper == SHIM:
                lifeline_read, lifeline_write = _pipe(ours, theirs, parent_reads=False)
        except OSError as error:
            raise SpawnError("pipes", str(error)) from error
        opened = _open_files(files or {}, theirs)
        argv = [str(opened.get(word, word)) for word in argv]
        if wrapper == BWRAP:
            plan = _Plan(_bwrap_command(argv, report_write, cwd), [report_write], env, rights.popen)
            if network is not None:
                plan = _in_network({**network, "uid": rights.uid}, plan, opened, theirs)
        else:
            plan = _in_shim(argv, env, cwd, rights, (lifeline_read, report_write), theirs)
        try:
            with _first_to_go():
                child = plan.start(
                    plan.command,
                    stdin=stdin_read,
                    stdout=stdout_write,
                    stderr=stderr_write,
                    pass_fds=(*plan.passed, *opened.values()),
                    env=dict(plan.env),
                    cwd="/",
                    umask=0o077,
                    start_new_session=True,
                )
        except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
            raise SpawnError("exec", str(error)) from error
        child.returncode = 0  # the reaper collects it, Popen must not try
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, _FILE_LIMITS)
        ours.pop_all()
        pipes = (stdin_write, stdout_read, stderr_read, report_read, lifeline_write)
        return Spawned(child.pid, *pipes, prelude, has_shim=wrapper == SHIM)


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, *, parent_reads: bool) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    kept, given = (read_end, write_end) if parent_reads else (write_end, read_end)
    ours.callback(os.close, kept)
    theirs.callback(os.close, given)
    os.set_blocking(kept, False)
    # fewer wake-ups in a burst; the kernel may refuse when the user has many pipes
    with contextlib.suppress(OSError):
        fcntl.fcntl(kept, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


@contextlib.contextmanager
def _first_to_go() -> Iterator[None]:
    """What is started meanwhile is what the kernel ends when memory runs out, not we or the server.

    It is inherited, so that no process of the instance is ever without it.
    """
    path = "/proc/self/oom_score_adj"
    try:
        before = Path(path).read_text()
        Path(path).write_text(str(max(int(before), _INSTANCE_OOM_SCORE)))
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        # back to what a privileged process gave us is always allowed
        with contextlib.suppress(OSError):
            Path(path).write_text(before)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is executed, with which descriptors and environment, and how."""

    command: list[str]
    passed: Sequence[int]
    env: Mapping[str, str]
    start: Callable[..., subprocess.Popen[bytes]]


def _in_network(
    settings: Mapping[str, Any], plan: _Plan, opened: dict[str, int], theirs: contextlib.ExitStack
) -> _Plan:
    """As ``network_command``, with the log open. The script needs our interpreter, which the user may not
    reach, and so becomes the user itself."""
    if "log" in settings:
        opened[_LOG] = _open_log(settings["log"], theirs)
        settings = {**settings, "log": opened[_LOG]}
    kept = _kept(plan.env, theirs)
    command = network_command({**settings, "env": kept}, plan.command)
    return _Plan(command, [*plan.passed, kept], _own_environment(plan.env), subprocess.Popen)


def _in_shim(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    rights: Rights,
    pipes: tuple[int, int],
    theirs: contextlib.ExitStack,
) -> _Plan:
    """The shim stays who we are; ``pipes`` are its lifeline and its status descriptor."""
    kept = _kept(env, theirs)
    filters = [] if rights.filter is None else [_open_file(rights.filter, theirs)]
    word = rights.shim_word(cwd, env=kept, filter=filters[0] if filters else None)
    command = [*_SHIM_COMMAND, *map(str, pipes), word, *argv]
    return _Plan(command, [*pipes, kept, *filters], _own_environment(env), subprocess.Popen)


def _open_log(path: str, theirs: contextlib.ExitStack) -> int:
    """A file to append to, which no uid of an instance could open itself."""
    try:
        descriptor = open_log(path)
    except OSError as error:
        raise SpawnError("network", f"the log of connections cannot be opened: {error}") from error
    theirs.callback(os.close, descriptor)
    return descriptor


def _open_files(files: Mapping[str, str], theirs: contextlib.ExitStack) -> dict[str, int]:
    return {placeholder: _open_file(path, theirs) for placeholder, path in files.items()}


def _open_file(path: str, theirs: contextlib.ExitStack) -> int:
    try:
        descriptor = open_file(path)
    except (OSError, TypeError) as error:
        raise SpawnError("files", str(error)) from error
    theirs.callback(os.close, descriptor)
    return descriptor


def _kept(env: Mapping[str, str], theirs: contextlib.ExitStack) -> int:
    """``env`` in a file in memory, for a script of ours that becomes a program with it.

    Neither loader nor interpreter of ours heeds what is in it.
    """
    if not all(isinstance(word, str) for pair in env.items() for word in pair):
        raise SpawnError("exec", "an environment is of texts")
    descriptor = os.memfd_create("environment")
    theirs.callback(os.close, descriptor)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(json.dumps(dict(env)).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _own_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Of a script of ours: nothing but the instance's mark, by which its processes are found."""
    marks = (procfs.MARKER, procfs.SITE_MARKER)
    return {"PATH": _OWN_PATH, "LC_ALL": "C.UTF-8"} | {name: env[name] for name in marks if name in env}


def _bwrap_command(argv: Sequence[str], report: int, cwd: str) -> list[str]:
    # named twice it would warn, which is taken for a start that failed
    there = [] if cwd == "/" or "--chdir" in argv else ["--chdir", cwd]
    return [argv[0], "--info-fd", str(report), *there, *argv[1:]]


def network_command(settings: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """``command``, which is of bubblewrap, in a network of its own."""
    return [sys.executable, "-I", "-S", str(_NETWORK_PATH), json.dumps(settings), *command]
