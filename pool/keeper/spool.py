"""The spool: an instance's output as a file tree, addressed by offsets that never restart.

``<directory>/<start offset, 16 digits>.out`` are the segments. A segment is
cut at the first line end at or above its nominal size, so that no line spans
two. Trimming removes whole segments. One process writes, any may read.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class _Segment:
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def name(self) -> str:
        return f"{self.start:016d}.out"


class Spool:
    """The output of one instance. ``end`` is the offset after the last byte stored."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = max(1, segment_bytes)
        self._segments = _scan(directory)
        self._fd = -1
        self.last_error: OSError | None = None

    @property
    def start(self) -> int:
        """The first offset that can still be read."""
        return self._segments[0].start if self._segments else 0

    @property
    def end(self) -> int:
        """The offset after the last byte stored."""
        return self._segments[-1].end if self._segments else 0

    def append(self, data: bytes) -> int:
        """Store as much of ``data`` as the disk takes, from its beginning; the number of bytes stored.

        Less than all: ``last_error`` says why, and the rest is to be given again.
        """
        done = 0
        view = memoryview(data)
        while done < len(data):
            try:
                stop = done + self._fitting(data, done)
                written = os.write(self._open_last(), view[done:stop])
            except OSError as error:
                self.last_error = error
                break
            self._segments[-1].length += written
            done += written
            self._cut_if_full(data, done)
        else:
            self.last_error = None
        return done

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """(offset of the first byte, bytes); above ``offset`` when that part was trimmed.

        At most ``limit`` bytes, possibly fewer; empty at the end.
        """
        offset = max(offset, self.start)
        segment = self._segment_at(offset)
        if segment is None:
            return offset, b""
        fd = os.open(self._directory / segment.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            wanted = min(limit, segment.end - offset)
            return offset, os.pread(fd, wanted, offset - segment.start)
        finally:
            os.close(fd)

    def trim(self, offset: int) -> None:
        """Remove the segments that end at or below ``offset``; the last one always stays."""
        while len(self._segments) > 1 and self._segments[0].end <= offset:
            (self._directory / self._segments[0].name).unlink(missing_ok=True)
            del self._segments[0]

    def close(self) -> None:
        """Close the segment being written; reading stays possible."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Remove everything."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._segments.clear()

    def _fitting(self, data: bytes, done: int) -> int:
        """How many bytes from ``done`` on belong to the segment being written."""
        room = self._segment_bytes - (self._segments[-1].length if self._segments else 0)
        newline = data.find(b"\n", done + max(0, room - 1))
        return len(data) - done if newline < 0 else newline + 1 - done

    def _cut_if_full(self, data: bytes, done: int) -> None:
        last = self._segments[-1]
        if last.length >= self._segment_bytes and data[done - 1 : done] == b"\n":
            self.close()
            self._segments.append(_Segment(last.end, 0))

    def _open_last(self) -> int:
        if not self._segments:
            self._segments.append(_Segment(0, 0))
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._directory / self._segments[-1].name, flags, 0o600)
        return self._fd

    def _segment_at(self, offset: int) -> _Segment | None:
        # readers are nearly always in the last segments
        for segment in reversed(self._segments):
            if segment.start <= offset:
                return segment if offset < segment.end else None
        return None


def _scan(directory: Path) -> list[_Segment]:
    if not directory.is_dir():
        return []
    paths = [path for path in sorted(directory.glob("*.out")) if path.stem.isdigit()]
    return [_Segment(int(path.stem), path.stat().st_size) for path in paths]
