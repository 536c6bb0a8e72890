"""The model gateway's listening sockets, and the gateway as a child.

Each instance has a directory of its own with one socket in it, which the
sandbox binds as a directory. The keeper holds the listening descriptors, so
that a connect made while no gateway runs waits in the backlog.

A gateway is replaced by overlap: another one is started beside it and given
all listeners; when it serves them, the old one accepts nothing more, lets its
open calls finish and leaves. See ``gateway_process`` for the channel.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pool.keeper.entry import Call, HostError
from pool.keeper.gateway_process import GatewayChild, GatewayProcess, Listener, ServiceUser
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.log import Log
from pool.keeper.loop import Loop, Timer
from pool.keeper.reaper import Reaper
from pool.keeper.rights import Rights
from pool.keeper.service_user import give_directories

SOCKET_NAME = "api.sock"

_BACKLOG = 128
_FIRST_BACKOFF_SECONDS = 0.05
_LAST_BACKOFF_SECONDS = 5.0
_HEALTHY_SECONDS = 10.0
_LEAVE_SECONDS = 5.0
_READY_SECONDS = 30.0

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


class Gateway:
    """Holds the listeners; with a command it also runs the gateway and restarts it.

    ``user`` is as whom it runs, ``on_state(state, pid)`` tells ``up`` and ``down``.
    """

    def __init__(
        self,
        command: Sequence[str] | None,
        *,
        user: ServiceUser,
        data_dir: Path,
        runtime_dir: Path,
        environment: Mapping[str, str],
        loop: Loop,
        reaper: Reaper,
        log: Log,
        on_state: Callable[[str, int | None], None],
    ) -> None:
        self._command = None if command is None else list(command)
        self._user = self._former_user = user
        self._data_dir = data_dir
        self._runtime_dir = runtime_dir
        self._env = {key: environment[key] for key in GATEWAY_ENVIRONMENT if key in environment}
        self._loop = loop
        self._reaper = reaper
        self._log = log
        self._on_state = on_state
        self._listeners: dict[str, Listener] = {}
        self._serving: GatewayProcess | None = None
        self._successor: GatewayProcess | None = None
        self._draining: list[GatewayProcess] = []
        self._replacing: Call | None = None
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._started_at = 0.0
        self._restart: Timer | None = None
        self._on_gone: Callable[[], None] | None = None

    @property
    def pid(self) -> int | None:
        """The running gateway's pid."""
        return None if self._serving is None else self._serving.pid

    @property
    def uid(self) -> int | None:
        """Whose process it is; None when none is run here."""
        return None if self._command is None else self._user.number

    @property
    def is_being_replaced(self) -> bool:
        """Does a successor get ready?"""
        return self._successor is not None

    def to_state(self, packer: Packer) -> State:
        """Listeners and gateways; not while one is being replaced."""
        return {
            "listeners": {name: one.to_state(packer) for name, one in self._listeners.items()},
            "serving": None if self._serving is None else self._serving.to_state(packer),
            "draining": [one.to_state(packer) for one in self._draining],
            "uid": self._user.uid,
            "shown": self._user.shown,
            "backoff": self._backoff,
            "started_at": self._started_at,
        }

    def restore(self, state: State, unpacker: Unpacker) -> None:
        """The way back; a gateway that was to be started again is started at once."""
        for name, one in state["listeners"].items():
            self._listeners[name] = Listener.from_state(one, unpacker)
        self._user = ServiceUser(state.get("uid", self._user.uid), state.get("shown", self._user.shown))
        self._backoff, self._started_at = state["backoff"], state["started_at"]
        if state["serving"] is not None:
            self._serving = self._restored(state["serving"], unpacker)
        else:
            self._restart = self._loop.call_later(0, self.start)
        self._draining = [self._restored(one, unpacker) for one in state["draining"]]

    def _restored(self, state: State, unpacker: Unpacker) -> GatewayProcess:
        process = self._process(GatewayChild.from_state(state, unpacker))
        process.restore(state, unpacker)
        return process

    def start(self) -> None:
        """Run the gateway, if there is a command for it."""
        if self._command is None or self._on_gone is not None:
            return
        self._started_at = self._loop.now()
        try:
            self._serving = self._start(self._command)
        except OSError as error:
            self._log.write("gateway_not_started", error=str(error))
            self._restart_later()
            return
        self._on_state("up", self._serving.pid)

    def replace(self, call: Call, request: Mapping[str, Any]) -> None:
        """Run another gateway in place of the one that runs; ``call`` is answered when it serves.

        ``gateway_uid`` and ``gateway_shown`` of ``request`` hold from now on. Raises ``HostError``.
        """
        if self._command is None or self._on_gone is not None or self._serving is None:
            raise HostError("no_gateway", "no gateway runs here")
        if self._successor is not None:
            raise HostError("busy", "the gateway is being replaced")
        self._former_user, self._user = self._user, self._user.changed_by(request)
        try:
            successor = self._start(self._command)
        except OSError as error:
            self._keep_former_user()
            raise HostError("gateway_refused", str(error)) from error
        self._successor, self._replacing = successor, call
        successor.ask_report()
        self._loop.call_later(_READY_SECONDS, lambda: self._is_late(successor))

    def open(self, instance_id: str, labels: Mapping[str, str], rights: Rights) -> Path:
        """Make the instance's directory and socket for its user; the directory. Raises ``OSError``."""
        directory = socket_directory(self._runtime_dir, instance_id)
        _remove_directory(directory)
        directory.mkdir(mode=0o700, parents=True)
        if rights.uid is not None:
            directory.parent.chmod(0o711)
        rights.let_in(directory)
        listening = None
        if self._command is not None:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listening.bind(str(directory / SOCKET_NAME))
                rights.let_in(directory, directory / SOCKET_NAME)
                listening.listen(_BACKLOG)
                listening.setblocking(False)
            except OSError:
                listening.close()
                _remove_directory(directory)
                raise
        self._listeners[instance_id] = Listener(directory, dict(labels), listening, rights.peer)
        for process in self._accepting():
            process.tell_listen(instance_id)
        return directory

    def end(self, instance_id: str) -> None:
        """The instance ended: tell the gateway, remove socket and directory. Unknown: no effect."""
        listener = self._listeners.pop(instance_id, None)
        if listener is None:
            return
        if listener.socket is not None:
            listener.socket.close()
            for process in self._accepting():
                process.tell_end(instance_id)
        _remove_directory(listener.directory)

    def leave(self, on_gone: Callable[[], None]) -> None:
        """End every gateway for good and then call ``on_gone``."""
        self._on_gone = on_gone
        if self._restart is not None:
            self._restart.cancel()
        for instance_id in list(self._listeners):
            self.end(instance_id)
        for process in self._all():
            process.leave()
        self._loop.call_later(_LEAVE_SECONDS, self._kill_all)
        self._check_gone()

    def _start(self, command: Sequence[str]) -> GatewayProcess:
        process = self._process(GatewayChild.start(command, self._data_dir, self._env, self._user))
        self._log.write("gateway_started", gateway_pid=process.pid, uid=self.uid)
        process.tell_all()
        return process

    def _process(self, child: GatewayChild) -> GatewayProcess:
        return GatewayProcess(
            child,
            self._listeners,
            loop=self._loop,
            reaper=self._reaper,
            on_ready=self._is_ready,
            on_exit=self._exited,
        )

    def _accepting(self) -> list[GatewayProcess]:
        return [one for one in (self._serving, self._successor) if one is not None]

    def _all(self) -> list[GatewayProcess]:
        return [*self._accepting(), *self._draining]

    def _kill_all(self) -> None:
        for process in self._all():
            process.kill()

    def _check_gone(self) -> None:
        if self._on_gone is not None and not self._all():
            on_gone, self._on_gone = self._on_gone, _nothing
            on_gone()

    def _is_ready(self, process: GatewayProcess) -> None:
        call = self._replacing
        if process is not self._successor or call is None:
            return
        former, self._serving = self._serving, process
        self._successor = self._replacing = None
        self._started_at, self._backoff = self._loop.now(), _FIRST_BACKOFF_SECONDS
        if former is not None:
            self._draining.append(former)
            former.leave()
        self._log.write("gateway_replaced", gateway_pid=process.pid, former=former and former.pid)
        self._on_state("up", process.pid)
        call.answer(gateway_pid=process.pid)

    def _is_late(self, process: GatewayProcess) -> None:
        if process is self._successor:
            process.kill()

    def _exited(self, process: GatewayProcess, wait_status: int) -> None:
        code, tail = os.waitstatus_to_exitcode(wait_status), process.stderr_tail()
        self._log.write("gateway_exited", gateway_pid=process.pid, status=code, stderr=tail)
        if process is self._successor:
            self._successor_failed(code, tail)
        elif process is self._serving:
            self._serving = None
            if self._on_gone is None:
                self._on_state("down", None)
        else:
            self._draining.remove(process)
        if self._on_gone is not None:
            self._check_gone()
        elif self._serving is None and self._successor is None:
            self._restart_later()

    def _keep_former_user(self) -> None:
        """The one that serves goes on: its files are to be its own again."""
        self._user = self._former_user
        if self._user.uid is not None:
            with contextlib.suppress(OSError):
                give_directories(self._data_dir, self._user.uid)

    def _successor_failed(self, code: int, tail: str) -> None:
        self._keep_former_user()
        call, self._replacing, self._successor = self._replacing, None, None
        if call is not None:
            text = tail.strip() or f"it ended with {code} before it was ready"
            call.error("gateway_refused", f"the new gateway does not serve: {text}")

    def _restart_later(self) -> None:
        if self._restart is not None and self._restart.is_pending:
            return
        if self._loop.now() - self._started_at > _HEALTHY_SECONDS:
            self._backoff = _FIRST_BACKOFF_SECONDS
        self._restart = self._loop.call_later(self._backoff, self.start)
        self._backoff = min(2 * self._backoff, _LAST_BACKOFF_SECONDS)


def _nothing() -> None:
    pass


def _remove_directory(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory, ignore_errors=True)
