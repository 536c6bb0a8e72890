"""Opens the files that a start request names, as root or not: no link is followed, nothing else is opened.

Of a path the directories that may be somebody else's are walked one by one:
the last one for a file that is read, the last two for a log, so that both
begin at the data directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONG_LOG_BYTES = 16 * 1024 * 1024
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# what is no file must not keep us waiting
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_file(path: str) -> int:
    """A file to read. Raises ``OSError``, ``ValueError``."""
    file = Path(path)
    with _directory(file.parent.parent, file.parent.name, make=False) as directory:
        return _regular(file.name, os.O_RDONLY, directory)


def open_log(path: str) -> int:
    """A file to append to, made with its two directories when it is not there; a long one is put aside.

    Raises ``OSError``, ``ValueError``.
    """
    file = Path(path)
    outer = file.parent.parent
    with _directory(outer.parent, outer.name, file.parent.name, make=True) as directory:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(file.name, dir_fd=directory, follow_symlinks=False).st_size > _LONG_LOG_BYTES:
                os.replace(file.name, f"{file.name}.1", src_dir_fd=directory, dst_dir_fd=directory)
        return _regular(file.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, directory)


@contextmanager
def _directory(base: Path, *names: str, make: bool) -> Iterator[int]:
    found = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=found)
            inner = os.open(name, _DIRECTORY, dir_fd=found)
            os.close(found)
            found = inner
        yield found
    finally:
        os.close(found)


def _regular(name: str, flags: int, directory: int) -> int:
    """The file itself: one that has a name elsewhere too may be anybody's."""
    file = os.open(name, flags | _FILE, 0o600, dir_fd=directory)
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(file)
        raise OSError(errno.EPERM, "it is no file, or has another name too", name)
    return file
