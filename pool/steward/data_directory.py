"""Whose the names in a data directory are: root's, and some a server's that is not root.

The directory stays root's. Once it is given to a server, which needs to make
files beside its database, it has the sticky bit and the server's group: the
server can make names there, and can neither rename nor remove what is not its
own. So root opens nothing there by a name that could be the server's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pool.errors import Conflict

ROOTS_OWN = (
    *("workspaces", "homes", "templates-applied", "egress", "kept", "trials", "keeper", "spool"),
    *("tmp", "sandbox", "cli", "tools", "gateway", "own-keys"),
)
"""Directories of the data directory that a server which is not root must not make."""
_PASSABLE = frozenset({"workspaces", "homes", "tmp", "sandbox", "cli", "tools", "trials"})
_SERVERS_OWN = {"secrets": frozenset({"jwt.key"}), "conformance": None}
"""The server's directories, and what in them becomes the server's; None: every file."""
_AUDIT_FILES = frozenset({"audit.head", ".audit.head.new"})
_DATABASE_TAILS = ("", "-wal", "-shm", "-journal")
_GIVEN_MODE = 0o1771
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_ARE_GUARDED = Path("/proc/sys/fs/protected_hardlinks")


def given_to(data_dir: Path) -> int | None:
    """The uid of the server that may make names in ``data_dir``; None if nobody but its owner may.

    Only root has to know: for everybody else it is None.
    """
    if os.geteuid() != 0:
        return None
    try:
        status = os.stat(data_dir)
    except FileNotFoundError:
        return None
    is_given = status.st_mode & _GIVEN_MODE == _GIVEN_MODE and status.st_uid == 0
    return status.st_gid if is_given and status.st_gid != 0 else None


def check_roots(path: Path, data_dir: Path) -> None:
    """Raises ``Conflict`` for a file that root is to believe and a server could have put there."""
    uid = given_to(data_dir)
    if uid is None:
        return
    # what is the server's may be another file a moment later, but never root's
    for status in (os.lstat(path), os.stat(path)):
        if status.st_uid == uid or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
            raise Conflict(
                f"{path} may be the work of a server that was taken over: look at it, then remove it, "
                "or copy it and chown the copy to root"
            )


def database_file(storage_url: str | None, data_dir: Path) -> Path | None:
    """The file of the database, None where it is no file; the steward loads no library to know it."""
    if storage_url is None:
        return data_dir / "claude-pool.db"
    kind, _, place = storage_url.partition(":///")
    return Path(place.partition("?")[0]).absolute() if kind.startswith("sqlite") and place else None


def give_data(data_dir: Path, uid: int, database: str | None = "claude-pool.db") -> None:
    """Make the server's files in the data directory ``uid``'s, and all that is not so root's for good.

    Every name that root will use exists before the server first runs, so it
    can put nothing in the place of one. Of the files right there only those
    of ``database`` (None: it is elsewhere), of the audit log and the key of sign-ins are given.
    Raises ``Conflict`` where a name of root's is somebody else's, ``OSError``.
    """
    before = given_to(data_dir)
    top = os.open(data_dir, _DIRECTORY)
    try:
        if before is not None and before != uid:
            _take(top, before)
            before = None
        for name in ROOTS_OWN:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o711 if name in _PASSABLE else 0o700, dir_fd=top)
            _check_not(top, name, uid)
        for name in _SERVERS_OWN:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=top)
        if before is None or _links_are_guarded():
            _give(top, uid, database)
        os.fchown(top, 0, uid)
        os.fchmod(top, _GIVEN_MODE)
    finally:
        os.close(top)


def take_data(data_dir: Path) -> None:
    """Make a data directory that was given to a server root's alone again, for a server that is root.

    What the server could not have needed there (links, sockets, files with other
    names elsewhere) is removed. Raises ``Conflict``, ``OSError``.
    """
    uid = given_to(data_dir)
    if uid is None:
        return
    top = os.open(data_dir, _DIRECTORY)
    try:
        _take(top, uid)
    finally:
        os.close(top)


def _check_not(top: int, name: str, uid: int) -> None:
    status = os.stat(name, dir_fd=top, follow_symlinks=False)
    if status.st_uid == uid or not stat.S_ISDIR(status.st_mode):
        raise Conflict(
            f"{name} in the data directory should be a directory of root's: it may be the work of a server "
            "that was taken over. Look at it, then remove it"
        )


def _give(top: int, uid: int, database: str | None) -> None:
    for name, wanted in _SERVERS_OWN.items():
        with _opened(top, name) as directory:
            for entry in os.listdir(directory):
                if wanted is None or entry in wanted:
                    _change(directory, entry, 0, uid)
            os.fchown(directory, uid, uid)
    names = _AUDIT_FILES | {f"{database}{tail}" for tail in _DATABASE_TAILS if database}
    for name in os.listdir(top):
        if name in names or (database and name.startswith(f"{database}.bak-")):
            _change(top, name, 0, uid)


def _take(top: int, uid: int) -> None:
    # first of all nobody can make names any more
    os.fchmod(top, 0o711)
    os.fchown(top, 0, 0)
    for name in os.listdir(top):
        status = os.stat(name, dir_fd=top, follow_symlinks=False)
        if status.st_uid != uid:
            continue
        if not stat.S_ISDIR(status.st_mode):
            _take_file(top, name, uid)
            continue
        with _opened(top, name) as directory:
            os.fchown(directory, 0, 0)
            os.fchmod(directory, 0o700)
            for entry in os.listdir(directory):
                if os.stat(entry, dir_fd=directory, follow_symlinks=False).st_uid == uid:
                    _take_file(directory, entry, uid)


def _take_file(directory: int, name: str, uid: int) -> None:
    if not _change(directory, name, uid, 0):
        with contextlib.suppress(IsADirectoryError):
            os.unlink(name, dir_fd=directory)


def _change(directory: int, name: str, before: int, uid: int) -> bool:
    """Give a plain file of ``before``'s with one name only to ``uid``; was it such a one?"""
    try:
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return True
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != before:
            return False
        os.chown(f"/proc/self/fd/{file}", uid, uid)
        return True
    finally:
        os.close(file)


def _links_are_guarded() -> bool:
    """Does the kernel let nobody make another name for a file of somebody else's?"""
    try:
        return _LINKS_ARE_GUARDED.read_text().strip() != "0"
    except OSError:
        return False


@contextlib.contextmanager
def _opened(top: int, name: str) -> Iterator[int]:
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=top)
    except OSError as error:
        raise Conflict(f"{name} in the data directory should be a directory: {error.strerror}") from error
    try:
        yield directory
    finally:
        os.close(directory)
