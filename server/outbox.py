"""What is to be sent to one client: frames that wait, how many bytes they are, and a bell for the sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

BATCH_BYTES = 262144
_MAX_REPLIES = 1000


class Outbox:
    """Filled without waiting by the pool and by replies, emptied by one sending task.

    ``in_flight`` gives the bytes that the transport has but the kernel has
    not; they belong to the backlog.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._replies = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._is_shut = False

    @property
    def backlog_bytes(self) -> int:
        """Bytes taken but not yet handed to the kernel."""
        return self._size + self._in_flight()

    def put(self, frames: Sequence[bytes]) -> None:
        """Append frames of the log."""
        if self._is_shut:
            return
        self._frames.extend(frames)
        self._size += sum(map(len, frames))
        self._filled.set()

    def reply(self, frame: bytes) -> None:
        """Append an answer to the client; see ``room``."""
        self._replies += 1
        self.put((frame,))

    async def room(self) -> None:
        """Wait while too many answers have not been sent: who does not read gets no more of them."""
        while self._replies >= _MAX_REPLIES and not self._is_shut:
            self._emptied.clear()
            await self._emptied.wait()

    async def emptied(self) -> None:
        """Wait until the transport has all of it."""
        while self._frames and not self._is_shut:
            self._emptied.clear()
            await self._emptied.wait()

    def shut(self) -> None:
        """Nothing will be sent any more: wait for nothing, keep nothing."""
        self._is_shut = True
        self._frames.clear()
        self._size = 0
        self._emptied.set()

    async def filled(self, timeout_seconds: float | None = None) -> bool:
        """Wait until there is something to send; False when the time is over."""
        if self._frames:
            return True
        self._filled.clear()
        try:
            # Not ``wait_for``: that of Python 3.11 swallows a cancellation which comes with the first frame.
            async with asyncio.timeout(timeout_seconds):
                await self._filled.wait()
        except TimeoutError:
            return False
        return True

    def ring(self) -> None:
        """Wake the sender although there is nothing to send."""
        self._filled.set()

    def take(self) -> list[bytes]:
        """The oldest frames, together about ``BATCH_BYTES``, at least one if there is any."""
        batch: list[bytes] = []
        size = 0
        while self._frames and size < BATCH_BYTES:
            frame = self._frames.popleft()
            size += len(frame)
            batch.append(frame)
        self._size -= size
        self._replies = max(0, self._replies - len(batch))
        self._emptied.set()
        return batch
