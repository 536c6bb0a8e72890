"""The two pipes that a program run over SSH has, for what nothing else may write to."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Self


class Streams:
    """One conversation over two descriptors. ``heard_at``: when something last came, monotonic."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.heard_at = time.monotonic()

    @classmethod
    def standard(cls) -> Self:
        """Standard input and output as they are now; both are something else for everybody after it.

        Whatever is printed goes to standard error, here and in processes that are started.
        """
        source, sink = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.close(nothing)
        for descriptor in (source, sink):
            os.set_blocking(descriptor, True)
        return cls(source, sink)

    def recv(self, size: int, /) -> bytes:
        """Some bytes, none at the end. Raises ``OSError``."""
        data = os.read(self.source, size)
        self.heard_at = time.monotonic()
        return data

    def sendall(self, data: bytes, /) -> None:
        """Write all of it. Raises ``OSError``."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.sink, rest) :]

    def shutdown(self, _how: int, /) -> None:
        """Say no more."""
        with contextlib.suppress(OSError):
            os.close(self.sink)
