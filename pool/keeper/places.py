"""Where root works in a data directory that a server which is not root can write to as well."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OWN = {"keeper": 0o700, "spool": 0o700, "egress": 0o700, "tmp": 0o711, "sandbox": 0o711}


def temporary_name(instance_id: str) -> str:
    """The name of an instance's own temporary directory below ``<data>/tmp``; short, for sockets in it."""
    return hashlib.sha256(instance_id.encode()).hexdigest()[:12]


def temporary_directory(data_dir: Path, instance_id: str) -> Path:
    """An instance's own temporary directory."""
    return data_dir / "tmp" / temporary_name(instance_id)


def check_places(data_dir: Path, gateway_uid: int) -> None:
    """Make the directories that root works in. Raises ``OSError`` for one that is not root's alone.

    The data directory itself may be written to by others if it is sticky:
    then nobody can put something in the place of what is root's.
    """
    top = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(top)
        if status.st_uid != 0 or (status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX):
            _refuse(data_dir, "is not root's, or others may rename what is in it")
        for name, mode in _OWN.items():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
                os.chmod(name, mode, dir_fd=top)
            _check_owner(data_dir / name, top, (0,))
        for name in ("gateway", "own-keys"):
            with contextlib.suppress(FileNotFoundError):
                _check_owner(data_dir / name, top, (0, gateway_uid))
    finally:
        os.close(top)


def _check_owner(path: Path, top: int, owners: tuple[int, ...]) -> None:
    status = os.stat(path.name, dir_fd=top, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners or status.st_mode & _OTHERS_WRITE:
        _refuse(path, "is no directory of root's alone: remove it or give it to root")


def _refuse(path: Path, text: str) -> None:
    raise PermissionError(errno.EPERM, text, str(path))
