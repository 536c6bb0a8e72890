"""The keeper's only loop: descriptors, timers and signals, one thing at a time.

A callback that raises is logged and the loop goes on, because every CLI of
the host depends on this one process.
"""

from __future__ import annotations

import heapq
import itertools
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from pool.keeper.log import Log

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_FAILURES_UNTIL_UNWATCHED = 10


class Timer:
    """One call in the future; ``cancel`` is allowed at any time, also afterwards."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None

    @property
    def is_pending(self) -> bool:
        """Is the call still to come?"""
        return self.callback is not None


class Loop:
    """Runs until ``stop``. Times are of ``time.monotonic``, in seconds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._epoll = select.epoll()
        self._watches: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._failures: dict[int, int] = {}
        self._signals: dict[int, Callable[[], None]] = {}
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._running = False
        self.watch(self._wake_in.fileno(), READ, self._drain_signals)

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(mask)`` whenever ``fd`` is ready for ``events``; replaces an earlier watch."""
        known = self._watches.get(fd)
        self._watches[fd] = (events, callback)
        if known is None:
            self._epoll.register(fd, events)
        elif known[0] != events:
            self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; to be called before it is closed. Not watched: no effect."""
        self._failures.pop(fd, None)
        if self._watches.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once, after at least ``seconds``."""
        timer = Timer(self.now() + max(0.0, seconds), callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once, not before ``when``."""
        return self.call_later(when - self.now(), callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call once, after the callbacks of this round."""
        self._soon.append(callback)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` from the loop when the signal arrives."""
        self._signals[number] = callback
        signal.signal(number, _let_the_wakeup_tell)
        signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Run callbacks until ``stop``."""
        self._running = True
        while self._running:
            ready = [(fd, mask, self._watches.get(fd)) for fd, mask in self._epoll.poll(self._timeout())]
            for fd, mask, watch in ready:
                # an earlier callback of this round may have closed the descriptor, and
                # another thing may have been opened with its number
                if watch is not None and self._watches.get(fd) is watch:
                    self._call_watcher(fd, mask, *watch)
            self._run_timers()
            for _ in range(len(self._soon)):
                self._guard(self._soon.popleft())

    def stop(self) -> None:
        """Return from ``run`` after this round."""
        self._running = False

    def close(self) -> None:
        """Give back the loop's own descriptors."""
        signal.set_wakeup_fd(-1)
        self._epoll.close()
        self._wake_in.close()
        self._wake_out.close()

    def take_signals(self) -> None:
        """Act at once on the signals that have arrived; before an ``execve``, which would forget them."""
        self._drain_signals(READ)

    def _timeout(self) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and not self._timers[0][2].is_pending:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - self.now())

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._guard(callback)

    def _call_watcher(self, fd: int, mask: int, events: int, callback: Callable[[int], None]) -> None:
        # an error or the other end's going away is told to whoever waits, as being ready
        told = mask & events if mask & events else events
        try:
            callback(told)
            self._failures.pop(fd, None)
        except Exception:  # noqa: BLE001 - one instance's fault must not end all the others
            self._log.exception("callback_failed", fd=fd)
            failures = self._failures[fd] = self._failures.get(fd, 0) + 1
            if failures >= _FAILURES_UNTIL_UNWATCHED:
                self._log.write("descriptor_given_up", fd=fd)
                self.unwatch(fd)

    def _guard(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - as above
            self._log.exception("callback_failed")

    def _drain_signals(self, _mask: int) -> None:
        try:
            numbers = set(self._wake_in.recv(4096))
        except BlockingIOError:
            return
        for number in sorted(numbers):
            callback = self._signals.get(number)
            if callback is not None:
                self._guard(callback)


def _let_the_wakeup_tell(_number: int, _frame: object) -> None:
    """Python needs a handler for the wake-up descriptor to be written to."""
