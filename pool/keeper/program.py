"""Puts the keeper's parts together and sees it from its lock to its exit."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool.keeper import procfs, wire
from pool.keeper.bounds import Bounds
from pool.keeper.cgroup import AUTO, Groups
from pool.keeper.code_version import code_version
from pool.keeper.entry import Call, HostError
from pool.keeper.gateway import Gateway
from pool.keeper.gateway_process import ServiceUser
from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.host import Host, Limits
from pool.keeper.journal import Journal
from pool.keeper.ladder import Graces
from pool.keeper.lease import Lease
from pool.keeper.log import Log
from pool.keeper.loop import Loop
from pool.keeper.notify import Notifier
from pool.keeper.reaper import Reaper, become_subreaper
from pool.keeper.reconcile import reconcile
from pool.keeper.rights import let_gain_nothing
from pool.keeper.server import SOCKET_NAME, Epochs, KeeperServer
from pool.keeper.spawn import file_limits, raise_file_limit
from pool.keeper.upgrade import Upgrade

_LOCK_WAIT_SECONDS = 30.0
# after the last rung of the last ladder, how long the keeper still waits
_LAST_WAIT_SECONDS = 2.0
# and then for the gateway
_GATEWAY_SECONDS = 8.0


class HeldElsewhere(Exception):
    """Another keeper has this data directory."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line."""

    data_dir: Path
    runtime_dir: Path
    lease_seconds: float
    spool_max_bytes: int
    segment_bytes: int
    gateway_command: Sequence[str] | None
    version_max: int = wire.VERSION_MAX
    cgroup: str = AUTO
    gateway_uid: int | None = None
    gateway_shown: Sequence[str] = ()
    bounds: Bounds | None = None


class Program:
    """One keeper: ``open`` or ``restore`` makes it ready, ``run`` serves and gives the exit code.

    ``lock_fd`` holds the lock of the data directory, see ``take_lock``.
    """

    def __init__(self, settings: Settings, log: Log, lock_fd: int) -> None:
        self._settings = settings
        self._log = log
        self._lock_fd = lock_fd
        self._exit_code = 0
        self._is_leaving = False
        self._loop = Loop(log)
        self._reaper = Reaper(self._loop)
        self._journal = Journal(settings.data_dir / "keeper" / "instances")
        gateway = Gateway(
            settings.gateway_command,
            user=ServiceUser(settings.gateway_uid, settings.gateway_shown),
            data_dir=settings.data_dir,
            runtime_dir=settings.runtime_dir,
            environment=os.environ,
            loop=self._loop,
            reaper=self._reaper,
            log=log,
            on_state=self._gateway_state,
        )
        self._groups = Groups.find(settings.cgroup, procfs.site_of(settings.data_dir))
        limits = Limits(settings.spool_max_bytes, settings.segment_bytes)
        self._host = Host(
            settings.data_dir,
            limits,
            loop=self._loop,
            reaper=self._reaper,
            log=log,
            journal=self._journal,
            gateway=gateway,
            groups=self._groups,
            on_event=self._event,
        )
        self._lease = Lease(self._loop, settings.lease_seconds, self._lease_expired)
        self._notifier = Notifier(os.environ)
        self._upgrade = Upgrade(
            self._to_state,
            self._why_no_upgrade,
            self._notifier.reloading,
            loop=self._loop,
            reaper=self._reaper,
            log=log,
        )
        self._server: KeeperServer | None = None

    def open(self) -> None:
        """End what a former keeper left, then listen. Raises ``OSError``."""
        data_dir = self._settings.data_dir
        for directory in (data_dir / "keeper" / "instances", data_dir / "spool"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(self._settings.runtime_dir)
        if self._settings.bounds is not None:
            self._settings.runtime_dir.chmod(0o711)
            self._log.write("keeper_in_bounds", gains_nothing=let_gain_nothing())
        raise_file_limit()
        become_subreaper()
        controllers = self._groups.enable()
        self._groups.end_leftovers()
        for record in reconcile(self._journal, procfs.site_of(data_dir), self._log):
            self._host.remember(record)
        self._heed_signals()
        self._server = self._make_server()
        self._host.gateway.start()
        self._server.open()
        note_runtime_dir(data_dir, self._settings.runtime_dir)
        self._say_ready()
        note_groups(data_dir, self._groups.root, controllers)
        self._log.write("keeper_listens", runtime=str(self._settings.runtime_dir), groups=self._groups.root)

    def restore(self, unpacker: Unpacker) -> Call:
        """Take over what the image before held; who is to be told. Raises ``HandoverError`` and others.

        Nothing is read, written or signalled before ``run``.
        """
        state = unpacker.state
        raise_file_limit(tuple(state["file_limits"]))
        become_subreaper()
        self._reaper.restore(state["reaper"])
        self._host.gateway.restore(state["gateway"], unpacker)
        self._server = self._make_server()
        self._lease.restore(state["lease"])
        askers = self._server.restore(state["server"], unpacker)
        self._host.restore(state["host"], unpacker, askers)
        self._server.restore_streams(state["server"])
        self._heed_signals()
        self._loop.call_soon(self._reaper.reap)
        return askers.call(state["call"])

    def restored(self, call: Call, unclaimed: Sequence[int]) -> None:
        """Say that the take-over is done."""
        code = code_version()
        self._log.write("keeper_upgraded", code=code, descriptors_closed=list(unclaimed))
        call.answer(pid=os.getpid(), code=code)
        self._say_ready()

    def run(self) -> int:
        """Serve; the exit code."""
        self._loop.run()
        self._log.write("keeper_left", code=self._exit_code)
        self._log.close()
        self._loop.close()
        self._groups.close()
        for directory in (self._settings.runtime_dir / "i", self._settings.runtime_dir):
            # another keeper may be on its way, or something of an instance is left
            with suppress(OSError):
                directory.rmdir()
        os.close(self._lock_fd)
        return self._exit_code

    def leave(self, graces: Graces) -> None:
        """End every instance by the ladder, then the gateway, then the keeper; again: faster."""
        if not self._is_leaving:
            self._is_leaving = True
            self._log.write("keeper_leaves")
            if self._server is not None:
                self._server.close_listener()
        limit = graces.end_of_input + graces.term + graces.kill + _LAST_WAIT_SECONDS
        self._notifier.stopping(limit + _GATEWAY_SECONDS)
        self._loop.call_later(limit, self._give_up)
        self._host.stop_all(graces, self._all_ended)

    def _all_ended(self) -> None:
        self._host.gateway.leave(self._loop.stop)

    def _give_up(self) -> None:
        left = self._host.give_up()
        if left:
            self._log.write("keeper_gives_up", instances=left)
            self._exit_code = 1
            self._all_ended()

    def _say_ready(self) -> None:
        self._notifier.ready(f"listens in {self._settings.runtime_dir}")
        self._still_alive()

    def _still_alive(self) -> None:
        # from the loop itself: a thread would prove nothing
        if self._notifier.watchdog_seconds is not None:
            self._notifier.alive()
            self._loop.call_later(self._notifier.watchdog_seconds, self._still_alive)

    def _make_server(self) -> KeeperServer:
        return KeeperServer(
            self._settings.runtime_dir,
            Epochs(self._settings.data_dir / "keeper" / "epoch"),
            loop=self._loop,
            log=self._log,
            host=self._host,
            lease=self._lease,
            on_shutdown=self.leave,
            on_upgrade=self._upgrade.begin,
            version_max=self._settings.version_max,
            bounds=self._settings.bounds,
        )

    def _heed_signals(self) -> None:
        # What we were started with ignored (by nohup, by a shell in the background) would be handed
        # down to every CLI. Of the two that Python ignores it takes care itself.
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._terminated)
        # not ignored: that would be handed down to every CLI
        self._loop.on_signal(signal.SIGHUP, _nothing)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _to_state(self, packer: Packer, call: Call) -> State:
        if self._server is None:
            raise HostError("busy", "the keeper does not serve yet")
        return {
            "lock": packer.descriptor(self._lock_fd),
            "file_limits": list(file_limits()),
            "reaper": self._reaper.to_state(),
            "gateway": self._host.gateway.to_state(packer),
            "server": self._server.to_state(packer),
            "host": self._host.to_state(packer),
            "lease": self._lease.to_state(),
            "call": call.to_state(),
        }

    def _why_no_upgrade(self) -> str | None:
        if self._is_leaving:
            return "the keeper is leaving"
        return "the gateway is being replaced" if self._host.gateway.is_being_replaced else None

    def _terminated(self) -> None:
        self.leave(Graces() if not self._is_leaving else Graces(0, 0))

    def _lease_expired(self) -> None:
        self._log.write("lease_expired")
        self.leave(Graces())

    def _gateway_state(self, state: str, pid: int | None) -> None:
        self._event({"event": "gateway", "state": state, "pid": pid})

    def _event(self, message: dict[str, Any]) -> None:
        if self._server is not None:
            self._server.event(message)


def note_runtime_dir(data_dir: Path, runtime_dir: Path) -> None:
    """Write down where the keeper of ``data_dir`` listens, for a server that would look elsewhere."""
    with suppress(OSError):
        (data_dir / "keeper" / "runtime").write_text(str(runtime_dir))


def note_groups(data_dir: Path, root: Path | None, controllers: Sequence[str]) -> None:
    """Write down which control groups the keeper has, for ``noted_groups``."""
    with suppress(OSError):
        body = {"root": None if root is None else str(root), "controllers": list(controllers)}
        (data_dir / "keeper" / "groups").write_text(json.dumps(body))


def noted_groups(data_dir: Path) -> tuple[str | None, Sequence[str]] | None:
    """(directory, controllers) of the keeper that was started last; None when none is known."""
    try:
        noted = json.loads((data_dir / "keeper" / "groups").read_bytes())
        return noted["root"], noted["controllers"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def noted_runtime_dir(data_dir: Path) -> Path | None:
    """Where a keeper of ``data_dir`` listens now, None when none does."""
    try:
        noted = Path((data_dir / "keeper" / "runtime").read_text())
    except (OSError, ValueError):
        return None
    return noted if _answers(noted / SOCKET_NAME) else None


def _nothing() -> None:
    pass


def take_lock(settings: Settings) -> int:
    """Become the keeper of the data directory; the lock's descriptor, to be held open.

    A keeper that is leaving, or was just killed, is waited for. Raises
    ``HeldElsewhere`` when one serves.
    """
    path = settings.data_dir / "keeper" / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if _answers(settings.runtime_dir / SOCKET_NAME) or time.monotonic() > deadline:
                holder = os.pread(fd, 64, 0).decode(errors="replace").strip()
                os.close(fd)
                raise HeldElsewhere(
                    f"the keeper with pid {holder} has {settings.data_dir}; stop it first"
                ) from None
            time.sleep(0.05)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def check_private(directory: Path) -> None:
    """Raises ``PermissionError`` unless the directory is ours and others can at most pass through it."""
    stat = os.stat(directory, follow_symlinks=False)
    if stat.st_uid != os.geteuid() or stat.st_mode & 0o066 or not directory.is_dir():
        raise PermissionError(f"{directory} must be a directory of uid {os.geteuid()} with mode 0700 or 0711")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
