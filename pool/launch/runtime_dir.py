"""The short directory for sockets: a unix path has at most 107 bytes, a data directory's may be longer."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pool.errors import KeeperUnavailable

# what the longest path below has to fit beside the directory: "/i/<12 hex>/api.sock"
_LONGEST_TAIL_BYTES = 24
_SOCKET_PATH_BYTES = 107


def runtime_dir_for(data_dir: Path, override: Path | None, environment: Mapping[str, str]) -> Path:
    """Where the sockets of ``data_dir`` are; nothing is made.

    ``/run/claude-pool`` for root, else ``$XDG_RUNTIME_DIR/claude-pool``, else
    ``/tmp/claude-pool-<uid>``, each with a name made from the data directory.
    """
    if override is not None:
        return override.absolute()
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/claude-pool") / name
    session = environment.get("XDG_RUNTIME_DIR")
    if session and Path(session).is_absolute() and os.access(session, os.W_OK | os.X_OK):
        return Path(session) / "claude-pool" / name
    return Path(f"/tmp/claude-pool-{uid}") / name


def make_runtime_dir(directory: Path, *, passable: bool = False) -> None:
    """Make the directory and its parent, 0700 and ours; both are checked when they exist.

    ``passable``: 0711, so that other users come through to a socket of theirs
    whose place they are told.

    Raises ``KeeperUnavailable`` when somebody else owns or may enter it, when
    it is a symbolic link, or when its path is too long for a socket.
    """
    if len(os.fsencode(directory)) + _LONGEST_TAIL_BYTES > _SOCKET_PATH_BYTES:
        raise KeeperUnavailable(
            f"the runtime directory {directory} is too long for a unix socket: set runtime_dir to a path "
            f"of at most {_SOCKET_PATH_BYTES - _LONGEST_TAIL_BYTES} bytes"
        )
    try:
        # the parent of a default is ours alone too; that of an override is the operator's
        if directory.parent.name.startswith("claude-pool"):
            directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(directory.parent)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(directory)
        if passable:
            for place in (directory.parent, directory):
                if place.name.startswith("claude-pool") or place == directory:
                    place.chmod(0o711)
    except OSError as error:
        raise KeeperUnavailable(f"cannot make the runtime directory {directory}: {error}") from error


def _check_private(directory: Path) -> None:
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise KeeperUnavailable(f"{directory} is not a directory; remove it")
    if found.st_uid != os.geteuid():
        raise KeeperUnavailable(f"{directory} belongs to uid {found.st_uid}, not to us; remove it")
    if found.st_mode & 0o066:
        raise KeeperUnavailable(f"{directory} is open to others; run: chmod 700 {directory}")
