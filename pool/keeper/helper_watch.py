"""Notices that the process which carries a sandbox's network has ended before the sandbox."""

from __future__ import annotations

from collections.abc import Callable

from pool.keeper.loop import READ, Loop
from pool.keeper.procfs import ProcessRef

# it ends a moment before the sandbox that it belongs to is seen to have ended
_GRACE_SECONDS = 0.2


class HelperWatch:
    """Calls ``on_lost()`` a moment after the helper's end, unless the watch was ended by then."""

    def __init__(self, loop: Loop, on_lost: Callable[[], None]) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._fd = -1
        self._is_over = False

    def begin(self, helper: ProcessRef | None) -> None:
        """Watch it; None: there is nothing to watch."""
        if helper is not None:
            self._fd = helper.fd
            self._loop.watch(self._fd, READ, self._ended)

    def end(self) -> None:
        """The sandbox ends, and its helper may; to be called before the helper is let go of."""
        self._is_over = True
        self._unwatch()

    def _ended(self, _mask: int) -> None:
        self._unwatch()
        self._loop.call_later(_GRACE_SECONDS, self._tell)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            self._fd = -1

    def _tell(self) -> None:
        if not self._is_over:
            self._on_lost()
