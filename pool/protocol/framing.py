"""Bytes of the CLI's stdout in, whole lines with their logical offsets out.

An offset is the number of bytes since the instance began, newlines included;
it never restarts. The offset just after a line's newline is that line's
identity (the ``offset`` of a cursor), so the same bytes give the same lines
and offsets however they are cut into chunks.
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_MAX_LINE_BYTES = 64 * 1024 * 1024
OVERSIZED_HEAD_BYTES = 1024


class Line(NamedTuple):
    """One line, without its newline (a carriage return before it is dropped too).

    ``end_offset`` is the offset just after the newline. An ``oversized`` line
    was above the bound: ``data`` has its first KiB only. ``complete`` is
    False for what stood after the last newline when the output ended.
    """

    # A NamedTuple, not a frozen dataclass: it is made once per frame, and costs a third.
    end_offset: int
    data: bytes
    oversized: bool = False
    complete: bool = True


class LineFramer:
    """Cuts a byte stream into lines; keeps at most one line in memory.

    Empty lines give nothing but count in the offsets. Time is linear in the
    number of bytes, however small the chunks are.
    """

    def __init__(self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES, start_offset: int = 0) -> None:
        self._max_line_bytes = max_line_bytes
        self._line_start = start_offset
        self._chunks: list[bytes] = []
        self._held_bytes = 0

    @property
    def line_offset(self) -> int:
        """The offset where the unfinished line begins: all before it has been given out."""
        return self._line_start

    @property
    def fed_offset(self) -> int:
        """The offset just after the last byte that was fed."""
        return self._line_start + self._held_bytes

    def feed(self, data: bytes) -> list[Line]:
        """Take the next bytes; return the lines that they complete, oldest first."""
        pieces = data.split(b"\n")
        last = pieces.pop()
        lines: list[Line] = []
        if pieces and self._chunks:
            self._hold(pieces[0])
            self._finish(lines)
            del pieces[0]
        end, bound = self._line_start, self._max_line_bytes
        for piece in pieces:
            size = len(piece)
            end += size + 1
            if size > bound:
                lines.append(Line(end, piece[:OVERSIZED_HEAD_BYTES], oversized=True))
                continue
            data_of_line = piece[:-1] if piece[-1:] == b"\r" else piece
            if data_of_line:
                lines.append(Line(end, data_of_line))
        self._line_start = end
        if last:
            self._hold(last)
        return lines

    def feed_eof(self) -> list[Line]:
        """The output has ended: return the unfinished line, if there is one."""
        lines: list[Line] = []
        if self._held_bytes:
            self._finish(lines, newline_bytes=0)
        return lines

    def _hold(self, chunk: bytes) -> None:
        self._held_bytes += len(chunk)
        if self._held_bytes <= self._max_line_bytes:
            self._chunks.append(chunk)
        elif len(self._chunks) != 1 or len(self._chunks[0]) != OVERSIZED_HEAD_BYTES:
            # Above the bound for the first time: from here on only the head is kept.
            head = b"".join([*self._chunks, chunk])[:OVERSIZED_HEAD_BYTES]
            self._chunks = [head]

    def _finish(self, lines: list[Line], newline_bytes: int = 1) -> None:
        data = b"".join(self._chunks)
        oversized = self._held_bytes > self._max_line_bytes
        self._line_start += self._held_bytes + newline_bytes
        self._chunks = []
        self._held_bytes = 0
        if not oversized:
            data = data.removesuffix(b"\r")
        if data:
            lines.append(Line(self._line_start, data, oversized, complete=newline_bytes == 1))
