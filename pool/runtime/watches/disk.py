"""A reserve of disk below which no turn is admitted: on a full disk the CLI loses its transcript silently."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pool.errors import PoolFull

_WRITTEN_TO = (".", "homes", "spool", "workspaces")
_LEAST_FREE_INODES = 1024
_RETRY_AFTER_SECONDS = 60.0


class DiskReserve:
    """Knows since the last ``look`` whether the file systems below ``data_dir`` have ``reserve_bytes`` free.

    A reserve of 0 is none: nothing is refused then.
    """

    def __init__(self, data_dir: Path, reserve_bytes: int) -> None:
        self.reserve_bytes = reserve_bytes
        self._places = [data_dir / name for name in _WRITTEN_TO]
        self._free_bytes: int | None = None
        self._free_inodes: int | None = None
        self._error: str | None = None

    async def look(self) -> None:
        """Ask the file systems, in a thread; one that cannot be asked leaves what was known."""
        try:
            self._free_bytes, self._free_inodes = await asyncio.to_thread(_least_free, self._places)
        except OSError as error:
            self._error = f"the data directory's file system cannot be asked: {error.strerror}"
        else:
            self._error = None

    @property
    def trouble(self) -> str | None:
        """Why no turn is admitted, in words for the user; None when there is room."""
        if self.reserve_bytes <= 0:
            return None
        if self._free_bytes is not None and self._free_bytes < self.reserve_bytes:
            return (
                f"the server's disk is almost full: {_mib(self._free_bytes)} are free and "
                f"{_mib(self.reserve_bytes)} are kept in reserve; an operator must make room"
            )
        if self._free_inodes is not None and self._free_inodes < _LEAST_FREE_INODES:
            return "the server's disk can take almost no more files; an operator must make room"
        return None

    def refusal(self) -> PoolFull | None:
        """The refusal of a turn, or None."""
        trouble = self.trouble
        return PoolFull(trouble, retry_after_seconds=_RETRY_AFTER_SECONDS) if trouble else None

    def check(self) -> dict[str, Any]:
        """How the health page tells it."""
        if self._error is not None:
            return {"ok": False, "detail": self._error}
        if self._free_bytes is None:
            return {"ok": True, "detail": "not looked at yet"}
        free = f"{_mib(self._free_bytes)} free where sessions write"
        return {
            "ok": self.trouble is None,
            "detail": self.trouble or f"{free}; reserve {_mib(self.reserve_bytes)}",
        }


def _mib(size: int) -> str:
    return f"{size // 2**20} MiB"


def _least_free(places: Iterable[Path]) -> tuple[int, int | None]:
    """The fewest free bytes, and inodes where a file system counts them, for those who are not root."""
    figures = {}
    for place in places:
        try:
            device = os.stat(place).st_dev
            if device not in figures:
                figures[device] = os.statvfs(place)
        except FileNotFoundError:
            continue  # no user was here yet
    if not figures:
        raise FileNotFoundError(2, "it is not there")
    inodes = [figure.f_favail for figure in figures.values() if figure.f_files > 0]
    return min(figure.f_bavail * figure.f_frsize for figure in figures.values()), min(inodes, default=None)
