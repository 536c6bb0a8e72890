"""Makes, fills, measures and removes directory trees that a user may be changing meanwhile.

Everything is done relative to descriptors and follows no symbolic link.
Blocking: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pool.errors import Conflict
from pool.fs_identity import acting_as_owner_of
from pool.workspace.paths import enter_below

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SLICE_ENTRIES = 1000
_TRASH = ".removed-"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree takes on disk. ``complete`` is False while counting, and after giving up."""

    bytes: int
    entries: int
    complete: bool

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(self.bytes + other.bytes, self.entries + other.entries, self.complete and other.complete)


@contextlib.contextmanager
def directory(name: str | Path, *, below: int | None = None, mode: int = 0o700) -> Iterator[tuple[int, bool]]:
    """Open a directory, made if it is missing: (descriptor, was it made).

    A new one has exactly ``mode``, whatever the umask, and is made and opened
    as the owner of ``below``; one that exists loses what others may do with it,
    if ``mode`` gives them nothing. Raises ``Conflict`` if the name is taken by something else.
    """
    with acting_as_owner_of(below):
        made = _make(name, below)
        if made:
            _allow(below, name)
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=below)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Conflict("something that is not a directory has the name of one") from error
            raise
    try:
        if made:
            os.fchmod(descriptor, mode)
        elif not mode & 0o007:
            _close_to_others(descriptor)
        yield descriptor, made
    finally:
        os.close(descriptor)


def _make(name: str | Path, below: int | None) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=below)
    except FileExistsError:
        return False
    return True


def _close_to_others(descriptor: int) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & 0o007:
        os.fchmod(descriptor, mode & ~0o007)


def copy_missing(source: Path, target: int, *, leave_out: frozenset[str]) -> None:
    """Copy what is missing from ``source``, a directory that is trusted, into the one open as ``target``.

    Whatever exists stays as it is, symbolic links too. Names in ``leave_out``
    are not copied. A file appears whole or not at all, so that it can be done
    again after a crash and by several at once.
    """
    for entry in sorted(os.scandir(source), key=lambda item: item.name):
        if entry.name in leave_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(Conflict), directory(entry.name, below=target) as (below, _made):
                copy_missing(Path(entry.path), below, leave_out=leave_out)
        elif entry.is_file(follow_symlinks=False):
            executable = entry.stat(follow_symlinks=False).st_mode & stat.S_IXUSR
            _copy_file(Path(entry.path), target, entry.name, 0o700 if executable else 0o600)


def _copy_file(source: Path, target: int, name: str, mode: int) -> None:
    if _exists(target, name):
        return
    content = source.read_bytes()
    with acting_as_owner_of(target):
        _write_file(content, target, name, mode)


def _write_file(content: bytes, target: int, name: str, mode: int) -> None:
    partial = f".{name[:200]}.{secrets.token_hex(8)}.part"
    descriptor = os.open(
        partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
    )
    try:
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(content)
            os.fchmod(copy.fileno(), mode)
        # A link, and not a rename, because a rename would replace what came meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(partial, name, src_dir_fd=target, dst_dir_fd=target, follow_symlinks=False)
    finally:
        os.unlink(partial, dir_fd=target)


def _exists(target: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def measure(root: Path, *, max_entries: int) -> Iterator[Usage]:
    """Count a tree in slices; the last item is the result. A tree that is not there is empty.

    A file with several names counts once. It gives up, with ``complete``
    False, after ``max_entries``, and leaves out what lies too deep to open.
    """
    try:
        top = os.open(root, _DIRECTORY)
    except FileNotFoundError:
        yield Usage(0, 0, complete=True)
        return
    try:
        yield from _measure(top, max_entries)
    finally:
        os.close(top)


def _measure(top: int, max_entries: int) -> Iterator[Usage]:
    size = count = 0
    complete = True
    seen: set[tuple[int, int]] = set()
    waiting = ["."]
    while waiting:
        for status, child in _look(top, waiting.pop()):
            if status is None:
                complete = False
                continue
            count += 1
            identity = (status.st_dev, status.st_ino)
            if identity not in seen:
                size += status.st_blocks * 512
            if status.st_nlink > 1 and child is None:
                seen.add(identity)
            if child is not None:
                waiting.append(child)
            if count >= max_entries:
                yield Usage(size, count, complete=False)
                return
            if count % _SLICE_ENTRIES == 0:
                yield Usage(size, count, complete=False)
    yield Usage(size, count, complete)


def _look(top: int, path: str) -> Iterator[tuple[os.stat_result | None, str | None]]:
    """Entries of a directory: (status, path if it is a directory); no status for what cannot be seen."""
    try:
        descriptor = enter_below(top, path)
    except FileNotFoundError:
        return
    except OSError:
        yield None, None
        return
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status, f"{path}/{entry.name}" if stat.S_ISDIR(status.st_mode) else None
    finally:
        os.close(descriptor)


def remove_tree(parent: int, name: str) -> None:
    """Remove ``name`` in the directory ``parent``; nothing there is fine. Raises ``OSError``.

    The name is free at once, by a rename; what an earlier call had to leave
    goes too. Nothing may live on the tree.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(name, f"{_TRASH}{secrets.token_hex(8)}", src_dir_fd=parent, dst_dir_fd=parent)
    with os.scandir(parent) as entries:
        trash = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for left, is_directory in trash:
        if not left.startswith(_TRASH):
            continue
        if is_directory:
            _take_apart(parent, left)
        else:
            os.unlink(left, dir_fd=parent)


def _take_apart(parent: int, name: str) -> None:
    """Remove a tree of any depth by moving its directories up, without recursion."""
    descriptor = _open_to_empty(parent, name)
    try:
        while inner := _unlink_files(descriptor):
            for directory_name in inner:
                _lift(descriptor, directory_name)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _lift(trash: int, name: str) -> None:
    """Remove a directory of ``trash`` after moving its directories up into ``trash``."""
    descriptor = _open_to_empty(trash, name)
    try:
        for inner in _unlink_files(descriptor):
            _allow(descriptor, inner)
            os.rename(inner, f"{_TRASH}{secrets.token_hex(8)}", src_dir_fd=descriptor, dst_dir_fd=trash)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=trash)


def _open_to_empty(parent: int, name: str) -> int:
    _allow(parent, name)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _allow(parent: int | None, name: str | Path) -> None:
    # Root needs no permission, and must not change a mode by a name that could be a link.
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=parent)


def _unlink_files(descriptor: int) -> list[str]:
    """Unlink everything in a directory but its directories, and return these."""
    with os.scandir(descriptor) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=descriptor)
    return [name for name, is_directory in found if is_directory]
