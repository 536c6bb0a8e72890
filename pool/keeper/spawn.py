"""Starts one wrapped CLI and finds out which process it is.

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
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.loop import READ, Loop, Timer
from pool.keeper.rights import Rights

BWRAP = "bwrap"
SHIM = "shim"
OURS = Rights()

_PIPE_BYTES = 1024 * 1024
_POLL_SECONDS = 0.001
_SLOWEST_POLL_SECONDS = 0.05
_SHIM_PATH = Path(__file__).with_name("shim.py")
_NETWORK_PATH = Path(__file__).with_name("network.py")
_LOG = "{log_fd}"
_LONG_LOG_BYTES = 16 * 1024 * 1024
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
        command, passed = _command(wrapper, argv, report_write, lifeline_read, rights, cwd)
        start = rights.popen if wrapper == BWRAP else subprocess.Popen
        if network is not None and wrapper == BWRAP:
            start = subprocess.Popen
            command = _in_network({**network, "uid": rights.uid}, command, opened, theirs)
        try:
            with _first_to_go():
                child = start(
                    command,
                    stdin=stdin_read,
                    stdout=stdout_write,
                    stderr=stderr_write,
                    pass_fds=(*passed, *opened.values()),
                    env=dict(env),
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


def _in_network(
    settings: Mapping[str, Any],
    command: Sequence[str],
    opened: dict[str, int],
    theirs: contextlib.ExitStack,
) -> list[str]:
    """As ``network_command``, with the log open. The script needs our interpreter, which the user may not
    reach, and so becomes the user itself."""
    if "log" in settings:
        opened[_LOG] = _open_log(settings["log"], theirs)
        settings = {**settings, "log": opened[_LOG]}
    return network_command(settings, command)


def _open_log(path: str, theirs: contextlib.ExitStack) -> int:
    """A file to append to, which no uid of an instance could open itself; a long one is put aside."""
    try:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size > _LONG_LOG_BYTES:
                os.replace(path, f"{path}.1")
        directory = Path(path).parent
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise SpawnError("network", f"the log of connections cannot be opened: {error}") from error
    theirs.callback(os.close, descriptor)
    return descriptor


def _open_files(files: Mapping[str, str], theirs: contextlib.ExitStack) -> dict[str, int]:
    opened: dict[str, int] = {}
    for placeholder, path in files.items():
        try:
            opened[placeholder] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (OSError, TypeError) as error:
            raise SpawnError("files", str(error)) from error
        theirs.callback(os.close, opened[placeholder])
    return opened


def _command(
    wrapper: str, argv: Sequence[str], report: int, lifeline: int, rights: Rights, cwd: str
) -> tuple[list[str], tuple[int, ...]]:
    if wrapper == BWRAP:
        # named twice it would warn, which is taken for a start that failed
        there = [] if cwd == "/" or "--chdir" in argv else ["--chdir", cwd]
        return [argv[0], "--info-fd", str(report), *there, *argv[1:]], (report,)
    python = [sys.executable, "-I", "-S", str(_SHIM_PATH)]
    return [*python, str(lifeline), str(report), rights.shim_word(cwd), *argv], (lifeline, report)


def network_command(settings: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """``command``, which is of bubblewrap, in a network of its own."""
    return [sys.executable, "-I", "-S", str(_NETWORK_PATH), json.dumps(settings), *command]


class Identifier:
    """Reads the wrapper's report until the CLI's process is known.

    Calls ``on_init`` with the namespace's init (bubblewrap only) and then
    ``on_cli`` with the CLI; a failed start is told by ``on_error(step, text)``
    where the wrapper knows it. The shim's lines go to ``on_report`` too.
    """

    def __init__(
        self,
        loop: Loop,
        spawned: Spawned,
        *,
        on_init: Callable[[procfs.ProcessRef], None],
        on_cli: Callable[[procfs.ProcessRef], None],
        on_error: Callable[[str, str], None],
        on_report: Callable[[str, int], None],
    ) -> None:
        self._loop = loop
        self._fd = spawned.report
        self._wrapper_pid = spawned.pid
        self._is_bwrap = not spawned.has_shim
        self._prelude = spawned.prelude
        self._on_init = on_init
        self._on_cli = on_cli
        self._on_error = on_error
        self._on_report = on_report
        self._text = b""
        self._init: procfs.ProcessRef | None = None
        self._timer: Timer | None = None
        self._pause = _POLL_SECONDS
        if self._fd >= 0:
            loop.watch(self._fd, READ, self._readable)

    def to_state(self, packer: Packer) -> State:
        """The report as far as it was read, and whether the CLI is still looked for."""
        return {
            "fd": packer.descriptor(self._fd),
            "text": packer.data(self._text),
            "searching": self._timer is not None and self._timer.is_pending,
        }

    def restore(self, state: State, unpacker: Unpacker, init: procfs.ProcessRef | None) -> None:
        """The way back; ``fd`` was given to the constructor."""
        self._text = unpacker.data(state["text"])
        self._init = init
        if state["searching"]:
            self._timer = self._loop.call_later(self._pause, self._find_cli)

    def close(self) -> None:
        """Read what is left and let go of the report descriptor."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._readable(READ)
        if self._fd >= 0:
            self._shut()

    def _shut(self) -> None:
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _readable(self, _mask: int) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._text += data
        if self._is_bwrap:
            self._parse_info()
        else:
            self._parse_lines()
        if not data:
            self._shut()

    def _parse_info(self) -> None:
        try:
            pid = int(json.loads(self._text)["child-pid"])
        except (ValueError, KeyError, TypeError):
            return
        self._text = b""
        init = procfs.ProcessRef.open(pid)
        if init is None or init.stat.ppid != self._wrapper_pid:
            return
        self._init = init
        self._on_init(init)
        self._find_cli()

    def _find_cli(self) -> None:
        """The child of the namespace's init, once it has become the CLI."""
        init = self._init
        if init is None or init.is_dead:
            return
        for pid in procfs.children(init.pid):
            ref = procfs.ProcessRef.open(pid)
            if ref is None:
                continue
            # until its exec the child still bears bubblewrap's name
            if ref.stat.ppid == init.pid and ref.stat.comm not in (init.stat.comm, self._prelude):
                self._on_cli(ref)
                return
            ref.close()
        self._timer = self._loop.call_later(self._pause, self._find_cli)
        self._pause = min(2 * self._pause, _SLOWEST_POLL_SECONDS)

    def _parse_lines(self) -> None:
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "pid":
                self._on_report(word, int(rest))
                ref = procfs.ProcessRef.open(int(rest))
                # already dead: its status follows
                if ref is not None and ref.stat.ppid == self._wrapper_pid:
                    self._on_cli(ref)
            elif word == "error":
                self._on_error("exec", rest.partition(" ")[2])
            else:
                self._on_report(word, int(rest))
