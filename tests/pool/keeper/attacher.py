"""A server that only listens: appends an instance's output to a file, until it is killed.

``python -m tests.pool.keeper.attacher SOCKET EPOCH INSTANCE FILE``: the file's
size is the offset from which it attaches.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from pool.keeper.client import KeeperClient


class FileSink:
    """Writes what comes; what is in the file when we are killed was received."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.offset = os.fstat(self.fd).st_size
        self.ended = asyncio.Event()

    def data_received(self, offset: int, data: bytes) -> None:
        assert offset == self.offset, (offset, self.offset)
        os.write(self.fd, data)
        self.offset += len(data)

    def exited(
        self, code: int | None, signal: str | None, stderr_tail: str, cause: str | None = None
    ) -> None:
        self.ended.set()

    def launcher_lost(self) -> None:
        self.ended.set()


async def main() -> None:
    socket, epoch, instance, path = sys.argv[1:]
    sink = FileSink(Path(path))
    client = await KeeperClient.connect(Path(socket), int(epoch), lambda _epoch: None)
    await client.attach(instance, sink.offset, sink)
    await sink.ended.wait()
    client.close()


if __name__ == "__main__":
    asyncio.run(main())
