"""A deadline that the kernel looks at: also for a process that was stopped and wakes after it.

A timer of an event loop is looked at when the loop comes to it, after whatever
else is ready. A signal of the kernel's that came due meanwhile is there when
the process wakes: the interpreter calls its handler before it goes on with
the program. The clock counts while the machine is suspended, and the time is
absolute: a stop between reading the clock and setting the timer changes nothing.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable

_ABSOLUTE = 1
_SIGNAL = 0


class _Event(ctypes.Structure):
    """``struct sigevent`` of Linux, 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_byte * 48),
    )


class _Time(ctypes.Structure):
    """``struct timespec``."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Spec(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (("interval", _Time), ("value", _Time))


def now() -> float:
    """Seconds on the clock of these deadlines, which goes on while process and machine sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Alarm:
    """Calls ``ring`` in the main thread, between two instructions, at the time that was set last.

    One in a process (it has SIGALRM), made in the main thread. Ended by ``close``, and by the end of
    the process image.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # before glibc 2.34 it is not in there
        self._libc = libc if hasattr(libc, "timer_create") else ctypes.CDLL("librt.so.1", use_errno=True)
        self._before = signal.signal(signal.SIGALRM, lambda _number, _frame: ring())
        event = _Event(signo=signal.SIGALRM, notify=_SIGNAL)
        self._timer = ctypes.c_long()
        self._call("timer_create", time.CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer))
        self._is_open = True

    def set(self, deadline: float) -> None:
        """Ring at ``deadline`` (a time of ``now``), at once if that is over, and at no earlier setting."""
        seconds, part = divmod(max(deadline, 1e-3), 1.0)
        spec = _Spec(value=_Time(int(seconds), int(part * 1e9)))
        self._call("timer_settime", self._timer, _ABSOLUTE, ctypes.byref(spec), None)

    def close(self) -> None:
        """Ring no more. Safe to call again."""
        if self._is_open:
            self._is_open = False
            self._call("timer_delete", self._timer)
            signal.signal(signal.SIGALRM, self._before)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name} failed")
