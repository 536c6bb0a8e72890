"""``claude-pool`` or a keeper as a process without its imports: forked off an interpreter that has them.

Most of what a short run of such a program costs is the import of its modules.
A ``Forker`` is a process that has imported them and has done nothing else; each
process is forked off it, gets its arguments, environment, directory and
descriptors, and runs the program's own ``main`` to the end of the interpreter.
What it starts itself is started as ever. Only ``/proc`` tells it from a start
from the file: its ``environ`` is the forker's, what follows its words in
``cmdline`` is empty, and what the interpreter reads before ``main``
(``PYTHONWARNINGS``) has no effect. A test whose subject is one of these starts
the program itself.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

SERVER, KEEPER = "server", "pool.keeper"
# all that a program imports on its way
_MODULES = {
    SERVER: (
        "server.cli",
        "server.launching",
        "server.running",
        "server.offline",
        "server.doctor",
        "rich.table",
    ),
    KEEPER: ("pool.keeper.__main__",),
}
_ROOT = Path(__file__).parents[1]
_MESSAGE_BYTES = 1 << 17
_DESCRIPTORS = 4
# room for the words of what is forked, in the forker's own command line
_ROOM = "-" * 3000
_ARG_START, _ARG_END = 45, 46
_made: list[Forker] = []
_in_use: list[Forker] = []


def forker(program: str = SERVER) -> Forker | None:
    """What to fork the program off; None when it is to be started from the file."""
    return next((one for one in _in_use if one.program == program), None)


def forker_pids() -> set[int]:
    """The parents of everything that this process has had forked."""
    return {one.pid for one in _made}


class Forker:
    """Our end: a process that forks, until the end of the block. What it has forked lives on."""

    def __init__(self, program: str = SERVER) -> None:
        self.program = program
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", program, str(theirs.fileno()), _ROOM],
                cwd=_ROOT,
                env={name: text for name, text in os.environ.items() if not name.startswith("PYTHONDONTW")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        # pools start their keepers in threads
        self._lock = threading.Lock()
        assert ours.recv(16) == b"ready", "the forker did not come up"

    @property
    def pid(self) -> int:
        """The parent of all that is forked."""
        return self._process.pid

    def __enter__(self) -> Self:
        _made.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _made.remove(self)
        self._socket.close()
        self._process.wait(10)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Until the end of the block the program is forked."""
        _in_use.append(self)
        try:
            yield
        finally:
            _in_use.remove(self)

    def fork(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        descriptors: Sequence[int],
        cwd: Path | None = None,
    ) -> Forked:
        """A process with these words, and with the descriptors as its standard ones."""
        request = {"words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd())}
        told, status = os.pipe()
        try:
            rights = array.array("i", [*descriptors, status]).tobytes()
            with self._lock:
                self._socket.sendmsg(
                    [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                )
                pid = int(self._socket.recv(16))
        finally:
            os.close(status)
        return Forked(pid, told)

    async def start(self, words: Sequence[str], env: Mapping[str, str], errors: int) -> Forked:
        """One whose standard output is ``stdout``; it has no input."""
        output, theirs = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            forked = self.fork(words, env, [nothing, theirs, errors])
        finally:
            os.close(nothing)
            os.close(theirs)
        await forked.read_from(output)
        return forked

    def run(
        self, words: Sequence[str], env: Mapping[str, str], text: str, seconds: float, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One to its end, as ``subprocess.run`` gives it. Raises ``TimeoutExpired`` and kills it then."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(text.encode())
            files[0].seek(0)
            forked = self.fork(words, env, [file.fileno() for file in files], cwd)
            returncode = forked.wait_sync(seconds)
            for file in files:
                file.seek(0)
            output, errors = (file.read().decode() for file in files[1:])
        return subprocess.CompletedProcess(list(words), returncode, output, errors)


class Forked:
    """A forked process, with what the tests use of ``asyncio.subprocess.Process``."""

    def __init__(self, pid: int, told: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self._told = told
        self._transport: asyncio.BaseTransport | None = None

    async def read_from(self, descriptor: int) -> None:
        """Have ``stdout`` give what comes there."""
        loop, self.stdout = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self.stdout)
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb", 0))

    def send_signal(self, number: int) -> None:
        """Signal it. Raises ``ProcessLookupError`` once its end was waited for."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; nothing when its end is known."""
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """Its exit code; a signal's number is negative."""
        if self.returncode is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._told, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._told)
        if self._transport is not None:
            self._transport.close()
        return self._ended()

    def wait_sync(self, seconds: float) -> int:
        """As ``wait``. Raises ``TimeoutExpired`` and kills it then."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._told, selectors.EVENT_READ)
            in_time = bool(selector.select(seconds))
        if not in_time:
            os.kill(self.pid, signal.SIGKILL)
        returncode = self._ended()
        if not in_time:
            raise subprocess.TimeoutExpired(str(self.pid), seconds)
        return returncode

    def _ended(self) -> int:
        if self.returncode is None:
            told = os.read(self._told, 16)
            os.close(self._told)
            assert told, "the forker is gone"
            self.returncode = int(told)
        return self.returncode


def _import_all(program: str) -> None:
    for name in _MODULES[program]:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would be missing in what is forked"
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork what is asked for. Returns in each forked process what was asked of it, and None at the end."""
    children: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _events in selector.select():
                if key.fd in children:
                    selector.unregister(key.fd)
                    _tell_end(key.fd, *children.pop(key.fd))
                    continue
                data, descriptors, _flags, _address = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
                if not data:
                    return None
                *standard, status = descriptors
                pid = os.fork()
                if not pid:
                    _take(standard, [status, *children, *(told for _pid, told in children.values())])
                    request: dict[str, Any] = json.loads(data)
                    return request
                for descriptor in standard:
                    os.close(descriptor)
                watch = os.pidfd_open(pid)
                children[watch] = pid, status
                selector.register(watch, selectors.EVENT_READ)
                control.send(str(pid).encode())


def _tell_end(watch: int, pid: int, status: int) -> None:
    os.close(watch)
    # told first: until then the pid is nobody else's, so that a signal can meet nobody else
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    with contextlib.suppress(BrokenPipeError), open(status, "wb") as told:
        told.write(str(code).encode())
    os.waitpid(pid, 0)


def _take(standard: Sequence[int], others: Sequence[int]) -> None:
    for descriptor in others:
        os.close(descriptor)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _become(program: str, request: dict[str, Any]) -> int:
    """Be the process that was asked for, to its end; its exit code."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    isolated = ["-I"] if program == KEEPER else []
    words = ["-m", program, *request["words"]]
    sys.orig_argv[:] = [sys.executable, *isolated, *words]
    sys.argv[:] = words[1:]
    _show(sys.orig_argv)
    if program == KEEPER:
        from pool.keeper.__main__ import main as keeper

        return keeper()
    from server.cli import main

    main(prog_name="claude-pool")
    return 0


def _show(words: Sequence[str]) -> None:
    """Have ``/proc`` tell these words as the command line, over the forker's own."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    text = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _program() -> int:
    program = sys.argv[1]
    control = socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    _import_all(program)
    control.send(b"ready")
    request = _serve(control)
    control.close()
    return 0 if request is None else _become(program, request)


if __name__ == "__main__":
    sys.exit(_program())
