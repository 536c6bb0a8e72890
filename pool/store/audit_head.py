"""The end of the audit log as it is noted beside the database, so that a cut tail is found.

The file has two places: where the log ends for certain, and where it ends
once the commit under way has succeeded. After a kill at any moment the log
ends at one of them. It is written in place and never grows, so a full disk
does not stop it. A crash of the whole machine can lose the last writes of both.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from pool.audit.records import Place

HEAD_NAME = "audit.head"
_LINE_BYTES = 96


@dataclass(frozen=True, slots=True)
class Head:
    """``certain``: stored. ``pending``: being stored, or not."""

    certain: Place
    pending: Place | None = None

    @property
    def latest(self) -> int:
        """The highest number that a record may have."""
        return max(self.certain.seq, self.pending.seq if self.pending is not None else 0)


class HeadFile:
    """Reads and writes the file; 0600, never through a symbolic link."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / HEAD_NAME
        self._descriptor: int | None = None

    def read(self) -> Head | None:
        """What is noted; None for no file. Raises ``ValueError`` for one that says nothing."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, encoding="ascii") as file:
            lines = file.read(4 * _LINE_BYTES).splitlines()
        if len(lines) != 2:
            raise ValueError("the head file of the audit log says nothing")
        certain, pending = (line.strip() for line in lines)
        return Head(Place.parse(certain), Place.parse(pending) if pending else None)

    def write(self, head: Head) -> None:
        """Note it, in one write. Raises ``OSError``."""
        lines = (str(head.certain), str(head.pending) if head.pending is not None else "")
        text = "".join(f"{line:<{_LINE_BYTES - 1}}\n" for line in lines).encode()
        if self._descriptor is None:
            self._descriptor = self._open(text)
        os.pwrite(self._descriptor, text, 0)

    def _open(self, text: bytes) -> int:
        """The file; one that is made has ``text`` from its first moment, for whoever reads meanwhile."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self._path, flags)
            os.fchmod(descriptor, 0o600)
            return descriptor
        new = self._path.with_name(f".{HEAD_NAME}.new")
        descriptor = os.open(new, flags | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.pwrite(descriptor, text, 0)
            os.rename(new, self._path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Safe to call again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
