"""The model gateway's listening sockets, and the gateway as a child.

Each instance has a directory of its own with one socket in it, which the
sandbox binds as a directory. The keeper holds the listening descriptors, so
that a connect made while no gateway runs waits in the backlog.

Control protocol, over a SOCK_SEQPACKET pair whose other end the gateway
inherits as ``--control-fd N``: one JSON object a message.
``{"op": "listen", "instance": id, "labels": {…}}`` with the listening
descriptor attached; ``{"op": "end", "instance": id}``. The gateway leaves at
the end of file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pool.keeper import procfs
from pool.keeper.log import Log
from pool.keeper.loop import WRITE, Loop, Timer
from pool.keeper.output import StderrTail
from pool.keeper.reaper import Reaper

SOCKET_NAME = "api.sock"

_BACKLOG = 128
_FIRST_BACKOFF_SECONDS = 0.05
_LAST_BACKOFF_SECONDS = 5.0
_HEALTHY_SECONDS = 10.0
_LEAVE_SECONDS = 5.0

# proxies and certificates decide how the upstream is reached, the rest is what any program needs
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
GATEWAY_ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *_PROXIES,
    *(name.lower() for name in _PROXIES),
)


def socket_directory(runtime_dir: Path, instance_id: str) -> Path:
    """Where the instance's model socket is: a short name, because a socket's path has 107 bytes at most."""
    return runtime_dir / "i" / hashlib.sha256(instance_id.encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Listener:
    directory: Path
    labels: dict[str, str]
    socket: socket.socket | None


class Gateway:
    """Holds the listeners; with a command it also runs the gateway and restarts it.

    ``on_state(state, pid)`` tells ``up`` and ``down``.
    """

    def __init__(
        self,
        command: Sequence[str] | None,
        *,
        data_dir: Path,
        runtime_dir: Path,
        environment: Mapping[str, str],
        loop: Loop,
        reaper: Reaper,
        log: Log,
        on_state: Callable[[str, int | None], None],
    ) -> None:
        self._command = None if command is None else list(command)
        self._data_dir = data_dir
        self._runtime_dir = runtime_dir
        self._env = {key: environment[key] for key in GATEWAY_ENVIRONMENT if key in environment}
        self._loop = loop
        self._reaper = reaper
        self._log = log
        self._on_state = on_state
        self._listeners: dict[str, _Listener] = {}
        self._control: socket.socket | None = None
        self._outgoing: deque[tuple[bytes, str | None]] = deque()
        self._stderr: StderrTail | None = None
        self._process: procfs.ProcessRef | None = None
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._started_at = 0.0
        self._restart: Timer | None = None
        self._on_gone: Callable[[], None] | None = None

    @property
    def pid(self) -> int | None:
        """The running gateway's pid."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Run the gateway, if there is a command for it."""
        if self._command is None or self._on_gone is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        stderr_read, stderr_write = os.pipe()
        os.set_blocking(stderr_read, False)
        self._started_at = self._loop.now()
        try:
            child = subprocess.Popen(
                [*self._command, "--control-fd", str(theirs.fileno()), "--data", str(self._data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr_write,
                pass_fds=(theirs.fileno(),),
                env=self._env,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(stderr_read)
            self._log.write("gateway_not_started", error=str(error))
            self._restart_later()
            return
        finally:
            theirs.close()
            os.close(stderr_write)
        child.returncode = 0  # the reaper collects it, Popen must not try
        self._process = procfs.ProcessRef.open(child.pid)
        self._control = ours
        self._stderr = StderrTail(self._loop, stderr_read)
        self._reaper.adopt(child.pid, self._exited)
        self._log.write("gateway_started", gateway_pid=child.pid)
        for instance_id in self._listeners:
            self._tell_listen(instance_id)
        self._on_state("up", child.pid)

    def open(self, instance_id: str, labels: Mapping[str, str]) -> Path:
        """Make the instance's directory and socket; the directory. Raises ``OSError``."""
        directory = socket_directory(self._runtime_dir, instance_id)
        _remove_directory(directory)
        directory.mkdir(mode=0o700, parents=True)
        listening = None
        if self._command is not None:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listening.bind(str(directory / SOCKET_NAME))
                listening.listen(_BACKLOG)
                listening.setblocking(False)
            except OSError:
                listening.close()
                _remove_directory(directory)
                raise
        self._listeners[instance_id] = _Listener(directory, dict(labels), listening)
        self._tell_listen(instance_id)
        return directory

    def end(self, instance_id: str) -> None:
        """The instance ended: tell the gateway, remove socket and directory. Unknown: no effect."""
        listener = self._listeners.pop(instance_id, None)
        if listener is None:
            return
        if listener.socket is not None:
            listener.socket.close()
            self._tell({"op": "end", "instance": instance_id}, None)
        _remove_directory(listener.directory)

    def leave(self, on_gone: Callable[[], None]) -> None:
        """End the gateway for good and then call ``on_gone``."""
        self._on_gone = on_gone
        if self._restart is not None:
            self._restart.cancel()
        for instance_id in list(self._listeners):
            self.end(instance_id)
        if self._process is None:
            on_gone()
            return
        self._close_control()
        self._loop.call_later(_LEAVE_SECONDS, self._kill)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    def _exited(self, wait_status: int) -> None:
        tail = ""
        if self._stderr is not None:
            self._stderr.close()
            tail = self._stderr.text()[-4096:]
            self._stderr = None
        self._close_control()
        if self._process is not None:
            self._process.close()
            self._process = None
        self._log.write("gateway_exited", status=os.waitstatus_to_exitcode(wait_status), stderr=tail)
        if self._on_gone is not None:
            self._on_gone()
            return
        self._on_state("down", None)
        self._restart_later()

    def _restart_later(self) -> None:
        if self._loop.now() - self._started_at > _HEALTHY_SECONDS:
            self._backoff = _FIRST_BACKOFF_SECONDS
        self._restart = self._loop.call_later(self._backoff, self.start)
        self._backoff = min(2 * self._backoff, _LAST_BACKOFF_SECONDS)

    def _tell_listen(self, instance_id: str) -> None:
        listener = self._listeners[instance_id]
        if listener.socket is not None:
            self._tell({"op": "listen", "instance": instance_id, "labels": listener.labels}, instance_id)

    def _tell(self, message: dict[str, object], instance_id: str | None) -> None:
        """Send a message, with the descriptor of ``instance_id`` if one is given."""
        if self._control is not None:
            self._outgoing.append((json.dumps(message).encode(), instance_id))
            self._send(WRITE)

    def _send(self, _mask: int) -> None:
        control = self._control
        if control is None:
            return
        while self._outgoing:
            message, instance_id = self._outgoing[0]
            try:
                self._send_one(control, message, instance_id)
            except BlockingIOError:
                self._loop.watch(control.fileno(), WRITE, self._send)
                return
            except OSError:
                # it is dying; its successor is told everything anew
                self._close_control()
                return
            self._outgoing.popleft()
        self._loop.unwatch(control.fileno())

    def _send_one(self, control: socket.socket, message: bytes, instance_id: str | None) -> None:
        if instance_id is None:
            control.send(message)
            return
        listener = self._listeners.get(instance_id)
        # ended before its turn came: there is nothing to listen on any more
        if listener is not None and listener.socket is not None:
            socket.send_fds(control, [message], [listener.socket.fileno()])

    def _close_control(self) -> None:
        self._outgoing.clear()
        if self._control is not None:
            self._loop.unwatch(self._control.fileno())
            self._control.close()
            self._control = None


def _remove_directory(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory, ignore_errors=True)
