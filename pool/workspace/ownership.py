"""Gives a tree that exists to another user, without being led out of it.

A version of the service that had no uid per user left trees that belong to
root. What is in them was made by programs that nobody trusts: a symbolic
link is given away itself and not what it points to, and a file that has a name
outside the tree too stays whose it is, since it may be anybody's.
Nothing of the user may run meanwhile. Blocking: call it in a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pool.workspace.paths import enter_below

_AT_EMPTY_PATH = 0x1000
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)

_Inode = tuple[int, int]


def give_tree(top: int, uid: int, gid: int) -> int:
    """Give the directory open as ``top``, and all in it, to ``uid``; how many things had to stay.

    The top itself goes last: who owns it, owns all. Stays: files with names
    elsewhere, devices, pipes and sockets, other file systems, what lies too deep.
    """
    device = os.fstat(top).st_dev
    names = Counter(_inode(status) for _, status in _walk(top, device) if _has_more_names(status))
    left = 0
    for descriptor, status in _walk(top, device):
        is_surely_theirs = (
            stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            and status.st_dev == device
            and (not _has_more_names(status) or names[_inode(status)] == status.st_nlink)
        )
        if not is_surely_theirs:
            left += 1
        elif (status.st_uid, status.st_gid) != (uid, gid):
            _give(descriptor, uid, gid)
    os.fchown(top, uid, gid)
    return left


def highest_owner(*parents: Path) -> int:
    """The highest uid that owns a directory right in one of ``parents``, 0 without any."""
    found = [0]
    for parent in parents:
        with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
            found += [entry.stat(follow_symlinks=False).st_uid for entry in entries]
    return max(found)


def _walk(top: int, device: int) -> Iterator[tuple[int, os.stat_result]]:
    """Everything below, each held by a descriptor that is closed when the next one comes."""
    waiting = ["."]
    while waiting:
        path = waiting.pop()
        try:
            directory = enter_below(top, path)
        except OSError:
            continue
        try:
            names = os.listdir(directory)
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(name, _PIN, dir_fd=directory)
                    try:
                        status = os.fstat(descriptor)
                        yield descriptor, status
                    finally:
                        os.close(descriptor)
                    if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                        waiting.append(f"{path}/{name}")
        finally:
            os.close(directory)


def _give(descriptor: int, uid: int, gid: int) -> None:
    if _libc.fchownat(descriptor, b"", uid, gid, _AT_EMPTY_PATH) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _has_more_names(status: os.stat_result) -> bool:
    return status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino
