"""Becomes a service user that has no rights, and then another program; run as a script of its own.

Usage: ``python -I -S service_user.py UID [--shown PATH]... PROGRAM ARGUMENT...``

The user is in no group but the one of the same number, holds no capability and
can gain none, not by a set-uid program either; what it makes is its alone.

Where a PATH lies behind a directory that the user may not pass (a home of mode
0700 with a Python in it), the program gets a view of the file system of its own,
in which that directory is an empty one with nothing but the PATHs in it, read-only.
Rights of the files themselves stay: what only root can read is not shown by that.
What replaces a PATH later, instead of being written into it, is not seen.

It imports nothing of the project. The keeper's side of it is here too: the command, and
the directories that such a user has to have.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PRIVATE_DIRECTORIES = ("gateway", "own-keys")
"""Of a data directory: what the gateway reads its keys from and writes its journal to."""

_SHOWN = "--shown"
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19
_COVER = b"mode=0711,size=1m,nr_inodes=4k"
_MOST_LINKS = 40

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Become the program in the arguments; never returns."""
    uid, program = int(sys.argv[1]), sys.argv[2:]
    shown = []
    while program[:1] == [_SHOWN]:
        shown.append(program[1])
        program = program[2:]
    try:
        _show(uid, shown)
        _become(uid)
        os.execv(program[0], program)
    except OSError as error:
        where = f": {error.filename}" if error.filename not in (None, program[0]) else ""
        os.write(2, f"uid {uid} cannot run {program[0]}: {error.strerror}{where}\n".encode())
    finally:
        os._exit(126)


def as_service_user(
    uid: int | None, command: Sequence[str], *, shown: Iterable[str | os.PathLike[str]] = ()
) -> list[str]:
    """``command`` as ``uid``, without any rights; None: as who we are.

    ``shown`` are absolute paths of directories and files that it is to see
    wherever they lie; one that does not exist is passed over. See the module.
    """
    if uid is None:
        return [*command]
    words = [word for path in shown for word in (_SHOWN, os.fspath(path))]
    return [sys.executable, "-I", "-S", __file__, str(uid), *words, *command]


def give_directories(data_dir: Path, uid: int) -> None:
    """Make the gateway's directories and the files in them ``uid``'s alone. Raises ``OSError``.

    A link, and a file that has a name elsewhere too, stays whose it is: who had
    the directory before may have put it there.
    """
    for name in PRIVATE_DIRECTORIES:
        (data_dir / name).mkdir(mode=0o700, exist_ok=True)
        directory = os.open(data_dir / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for entry in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):
                    _give_file(directory, entry, uid)
            os.fchown(directory, uid, uid)
            os.fchmod(directory, 0o700)
        finally:
            os.close(directory)


def _give_file(directory: int, name: str, uid: int) -> None:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if status.st_uid == uid or not stat.S_ISREG(status.st_mode):
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.fchown(file, uid, uid)
    finally:
        os.close(file)


def _show(uid: int, shown: Sequence[str]) -> None:
    """Cover what ``uid`` may not pass on its way to ``shown``, in a namespace of our own. Raises ``OSError``.

    Where nothing is in the way nothing is done, so that no right to mount is needed.
    """
    os.umask(0o022)
    # groups let pass too
    os.setgroups([])
    ways = [way for way in map(_way_to, shown) if way is not None]
    ends = sorted({end for end, _links in ways})
    links = {link: target for _end, links in ways for link, target in links.items()}
    if not any(_is_blocked(directory, uid) for path in (*ends, *links) for directory in _above(path)):
        return
    _checked(_libc.unshare(_CLONE_NEWNS), "/")
    _mount(None, "/", _MS_REC | _MS_SLAVE)
    # of this namespace, and from before anything is covered
    sources = [(end, os.open(end, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) for end in ends]
    covers: dict[str, int] = {}
    for end, source in sources:
        _clear(end, uid, covers)
        _bind(source, end, covers)
    for link, target in links.items():
        _clear(link, uid, covers)
        if not os.path.lexists(link):
            _check_ours(link, covers)
            os.symlink(target, link)
    for cover in covers:
        _mount(None, cover, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def _way_to(path: str) -> tuple[str, dict[str, str]] | None:
    """Where ``path`` ends, without a link in it, and the links that lead there; None: it does not exist."""
    place, rest = "", path.split("/")[::-1]
    links: dict[str, str] = {}
    followed = 0
    while rest and followed < _MOST_LINKS:
        name = rest.pop()
        if name == "..":
            place = place.rpartition("/")[0]
        elif name not in ("", "."):
            here = f"{place}/{name}"
            try:
                links[here] = target = os.readlink(here)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    return None
                place = here
            else:
                followed += 1
                place = "" if target.startswith("/") else place
                rest += target.split("/")[::-1]
    return None if rest else (place or "/", links)


def _above(path: str) -> Iterator[str]:
    """The directories on the way to a path, the first below the root first."""
    place = ""
    for name in path.split("/")[1:-1]:
        place = f"{place}/{name}"
        yield place


def _is_blocked(directory: str, uid: int) -> bool:
    """May ``uid`` not pass through it? The kernel is asked, which knows more than modes."""
    # with another user for files than root a thread has no rights over files either
    _libc.setfsgid(uid)
    _libc.setfsuid(uid)
    try:
        os.stat(f"{directory}/.")
    except PermissionError:
        return True
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())
    return False


def _clear(path: str, uid: int, covers: dict[str, int]) -> None:
    """See to it that ``uid`` can come to where ``path`` is, or is to be."""
    for directory in _above(path):
        if not os.path.lexists(directory):
            _check_ours(directory, covers)
            os.mkdir(directory, 0o711)
        elif _is_blocked(directory, uid):
            _mount(b"tmpfs", directory, _MS_NOSUID | _MS_NODEV, b"tmpfs", _COVER)
            covers[directory] = os.stat(directory).st_dev


def _check_ours(path: str, covers: dict[str, int]) -> None:
    """Nothing is ever made but in a directory that covers another; it may have been removed meanwhile."""
    if os.stat(os.path.dirname(path)).st_dev not in covers.values():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _bind(source: int, path: str, covers: dict[str, int]) -> None:
    """Have what is open as ``source`` appear at ``path``, read-only, unless it is there."""
    status = os.fstat(source)
    if os.path.lexists(path):
        there = os.lstat(path)
        if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
            return
    else:
        _check_ours(path, covers)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(path, 0o711)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _mount(f"/proc/self/fd/{source}".encode(), path, _MS_BIND)
    # what the mount denies already cannot be given back, so must be said again
    denied = os.statvfs(path).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount(None, path, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | denied)


def _mount(
    source: bytes | None, target: str, flags: int, kind: bytes | None = None, options: bytes | None = None
) -> None:
    _checked(_libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options), target)


def _checked(result: int, path: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"what is in the way cannot be covered ({os.strerror(code)})", path)


def _become(uid: int) -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        # unknown to an older kernel, or not allowed: without new privileges it could not be used anyway
        _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o077)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    no_new = [ctypes.c_ulong(1), *(ctypes.c_ulong(0) for _ in range(3))]
    if _libc.capset(header, nothing) != 0 or _libc.prctl(_PR_SET_NO_NEW_PRIVS, *no_new) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    main()
