"""A CLI's stdin: whole lines, in order, never waiting for a CLI that does not read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pool.keeper.handover import Packer, State, Unpacker
from pool.keeper.loop import WRITE, Loop

BUFFER_BYTES = 128 * 1024 * 1024

_WRITE_BYTES = 1024 * 1024


class Done(Protocol):
    """Who put a line; told once what became of it."""

    def __call__(self, problem: str | None) -> None:
        """See ``Intake``."""

    def to_state(self) -> State:
        """For a hand-over."""


@dataclass(slots=True)
class _Line:
    data: memoryview
    done: Done
    written: int = 0


class Intake:
    """Writes lines to ``fd`` as the CLI reads; each is answered by its ``done``.

    ``done(None)``: all bytes are in the pipe. ``done("input_closed")``: the
    CLI closed its stdin or it was closed. ``done("dropped")``: another server
    took over before the first byte was written.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._lines: deque[_Line] = deque()
        self._bytes = 0
        self._closing = False

    @property
    def is_open(self) -> bool:
        """May lines still be put?"""
        return self._fd >= 0 and not self._closing

    def to_state(self, packer: Packer) -> State:
        """The pipe and the lines that are not in it yet, the first one perhaps in part."""
        return {
            "fd": packer.descriptor(self._fd),
            "closing": self._closing,
            "lines": [
                {"data": packer.data(line.data), "written": line.written, "done": line.done.to_state()}
                for line in self._lines
            ],
        }

    def restore(self, state: State, unpacker: Unpacker, done_of: Callable[[State], Done]) -> None:
        """The way back; ``fd`` was given to the constructor."""
        self._closing = state["closing"]
        for line in state["lines"]:
            data = memoryview(unpacker.data(line["data"]))
            self._lines.append(_Line(data, done_of(line["done"]), line["written"]))
            self._bytes += len(data)
        self._settle()

    def has_room(self, line: bytes) -> bool:
        """Is the buffer's bound kept with this line in it? One line always fits."""
        return self._bytes == 0 or self._bytes + len(line) <= BUFFER_BYTES

    def put(self, line: bytes, done: Done) -> None:
        """Write ``line`` after all earlier ones."""
        if not self.is_open:
            done("input_closed")
            return
        self._lines.append(_Line(memoryview(line), done))
        self._bytes += len(line)
        if len(self._lines) == 1:
            self._write(WRITE)

    def drop_waiting(self) -> None:
        """Forget the lines of which nothing was written yet."""
        kept = [line for line in self._lines if line.written]
        dropped = [line for line in self._lines if not line.written]
        self._lines = deque(kept)
        self._bytes = sum(len(line.data) for line in kept)
        self._settle()
        for line in dropped:
            line.done("dropped")

    def end(self) -> None:
        """Give the CLI the end of its input, after the line that was begun."""
        self._closing = True
        self.drop_waiting()

    def close(self) -> None:
        """Close at once; what waits is answered."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
        lines, self._lines = self._lines, deque()
        self._bytes = 0
        for line in lines:
            line.done("input_closed")

    def _write(self, _mask: int) -> None:
        while self._lines:
            line = self._lines[0]
            try:
                line.written += os.write(self._fd, line.data[line.written : line.written + _WRITE_BYTES])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            if line.written == len(line.data):
                self._lines.popleft()
                self._bytes -= len(line.data)
                line.done(None)
                if self._fd < 0:
                    return
        self._settle()

    def _settle(self) -> None:
        if self._fd < 0:
            return
        if self._lines:
            self._loop.watch(self._fd, WRITE, self._write)
        else:
            self._loop.unwatch(self._fd)
            if self._closing:
                self.close()
