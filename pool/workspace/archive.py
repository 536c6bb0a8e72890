"""A tree as a tar archive, made piece by piece while the user may be changing it.

Symbolic links are stored as links and never followed; of what is no file,
directory or link nothing is stored. Memory is bounded by a piece. Blocking:
take each piece in a thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from pool.fs_identity import acting_as_owner_of

PIECE_BYTES = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DEEPEST = 200


def member(name: str, content: bytes, at: float | None = None) -> bytes:
    """A file of the archive, whole."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o600, int(time.time() if at is None else at)
    return _header(info) + content + _padding(len(content))


def end() -> bytes:
    """What closes an archive."""
    return bytes(2 * tarfile.BLOCKSIZE)


def tree(root: Path, name: str) -> Iterator[bytes]:
    """The pieces of everything below ``root``, with names that begin with ``name``; none if it is not there.

    A file that grows meanwhile is cut at the size that it had, one that
    shrinks is filled up with zeros. What cannot be read is left out.
    """
    try:
        top = os.open(root, _DIRECTORY)
    except OSError:
        return
    try:
        yield _header(_info(name, os.fstat(top), tarfile.DIRTYPE))
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parts = waiting.pop()
            for piece, below in _directory(top, parts, name):
                if below is not None:
                    waiting.append(below)
                if piece:
                    yield piece
    finally:
        os.close(top)


def _directory(top: int, parts: tuple[str, ...], name: str) -> Iterator[tuple[bytes, tuple[str, ...] | None]]:
    """One directory's entries: pieces, and the directories in it."""
    with _entered(top, parts) as (directory, names):
        for entry in names:
            path = "/".join((name, *parts, entry))
            try:
                status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below = (*parts, entry) if len(parts) < _DEEPEST else None
                    yield _header(_info(path, status, tarfile.DIRTYPE)), below
                elif stat.S_ISLNK(status.st_mode):
                    info = _info(path, status, tarfile.SYMTYPE)
                    info.linkname = os.readlink(entry, dir_fd=directory)
                    yield _header(info), None
                elif stat.S_ISREG(status.st_mode):
                    for piece in _file(top, directory, entry, path):
                        yield piece, None
            except OSError:
                continue  # gone or closed to us


@contextlib.contextmanager
def _entered(top: int, parts: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """A directory below ``top`` and its names, by a step a name and through no link; else no names."""
    current = os.dup(top)
    names: list[str] = []
    try:
        with contextlib.suppress(OSError), acting_as_owner_of(top):
            for part in parts:
                following = os.open(part, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = following
            names = sorted(os.listdir(current))
        yield current, names
    finally:
        os.close(current)


def _file(top: int, directory: int, entry: str, path: str) -> Iterator[bytes]:
    with acting_as_owner_of(top):
        descriptor = os.open(entry, _FILE, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return
        info = _info(path, status, tarfile.REGTYPE)
        info.size = left = status.st_size
        yield _header(info)
        while left:
            wanted = min(left, PIECE_BYTES)
            piece = b""
            with contextlib.suppress(OSError):
                piece = os.read(descriptor, wanted)
            piece = piece or bytes(wanted)
            left -= len(piece)
            yield piece
        yield _padding(info.size)
    finally:
        os.close(descriptor)


def _info(path: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, stat.S_IMODE(status.st_mode), int(status.st_mtime)
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
