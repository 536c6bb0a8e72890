"""Files with secrets in them: of mode 0600, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class NotPrivate(Exception):
    """Others may read or change the file; the text says what to do and holds nothing of it."""


def read_secret(path: Path) -> str:
    """The text of a file that is only its owner's. Raises ``NotPrivate``, ``OSError`` or ``UnicodeError``."""
    with path.open(encoding="utf-8") as file:
        _check(os.fstat(file.fileno()), path)
        return file.read()


def check_private(path: Path) -> None:
    """Raises ``NotPrivate``, or ``OSError`` when there is no such file."""
    _check(path.stat(), path)


def is_private(path: Path) -> bool:
    """May nobody but its owner read or change it?"""
    return not path.stat().st_mode & _OTHERS


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotPrivate(f"{path} is no file")
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise NotPrivate(f"{path} has mode {mode:04o}, so that others may read it: chmod 600 {path}")
