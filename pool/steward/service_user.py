"""As which Linux user the server runs where the service is root and users have uids; found out by trying."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pool.config import PoolConfig
from pool.keeper.program import noted_runtime_dir
from pool.keeper.server import SOCKET_NAME
from pool.keeper.service_user import as_service_user

_TRIAL_SECONDS = 60
ROOTS_OWN = (
    *("workspaces", "homes", "templates-applied", "egress", "kept", "trials", "keeper", "spool"),
    *("tmp", "sandbox", "cli", "tools", "gateway", "own-keys"),
)
"""Directories of the data directory that a server which is not root must not make."""
_PASSABLE = frozenset({"workspaces", "homes", "tmp", "sandbox", "cli", "tools", "trials"})
_SERVERS_OWN = ("secrets", "conformance")


def service_uid(config: PoolConfig) -> int:
    """The uid that is the server's, where there are uids: the last but one of the range."""
    return config.uid_range[1] - 1


def obstacle_to_dropping(config: PoolConfig, shown: Sequence[Path], trial: Sequence[str]) -> str | None:
    """What keeps the server from being its own user, None if nothing does.

    ``trial`` is a command that ends with 0 when whoever runs it can run the server.
    """
    return next(_obstacles(config, shown, trial), None)


def _obstacles(config: PoolConfig, shown: Sequence[Path], trial: Sequence[str]) -> Iterator[str]:
    uid = service_uid(config)
    owner = _owner_with(uid, config.data_dir)
    if owner is not None:
        yield f"the server runs as root, since uid {uid} is that of {owner}: widen isolation.uid_range"
    runtime_dir = noted_runtime_dir(config.data_dir)
    if runtime_dir is not None and os.stat(runtime_dir / SOCKET_NAME).st_gid != uid:
        yield (
            "the server runs as root, since the keeper that runs was started for one that is: "
            "claude-pool stop, then serve"
        )
    problem = _try(trial, uid, shown)
    if problem is not None:
        yield f"the server runs as root, since it does not start as uid {uid} ({problem})"


def _owner_with(uid: int, data_dir: Path) -> str | None:
    """A user who got this uid when the range was another one."""
    for parent in (data_dir / "workspaces", data_dir / "homes"):
        with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_uid == uid:
                    return entry.name
    return None


def _try(trial: Sequence[str], uid: int, shown: Sequence[Path]) -> str | None:
    try:
        done = subprocess.run(
            as_service_user(uid, trial, shown=shown),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"])[-1]


def give_data(data_dir: Path, uid: int) -> None:
    """Make the server's files in the data directory ``uid``'s, and all that is not so root's for good.

    The directory itself stays root's, with the sticky bit: the server makes
    its files there (SQLite wants to) and can neither rename nor remove what is
    root's or the gateway's. Every name that root will use exists before the
    server first runs, so it can put nothing in the place of one. Raises ``OSError``.
    """
    top = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in ROOTS_OWN:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o711 if name in _PASSABLE else 0o700, dir_fd=top)
        for name in _SERVERS_OWN:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
            _give_directory(top, name, uid)
        for name in os.listdir(top):
            _give_file(top, name, uid)
        if os.fstat(top).st_uid == 0:
            os.fchown(top, -1, uid)
        os.fchmod(top, 0o1771)
    finally:
        os.close(top)


def _give_directory(top: int, name: str, uid: int) -> None:
    """A directory and the files right in it; links and files with other names stay whose they are."""
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for entry in os.listdir(directory):
            _give_file(directory, entry, uid)
        os.fchown(directory, uid, uid)
    finally:
        os.close(directory)


def _give_file(directory: int, name: str, uid: int) -> None:
    try:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == 0:
            os.chown(f"/proc/self/fd/{file}", uid, uid)
    finally:
        os.close(file)
