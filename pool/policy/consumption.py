"""What is done about an instance that takes more of the machine than its user may.

Facts in, decision out: a look at the processes of one instance gives at most
one ``Verdict``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from pool.model import Reason
from pool.policy.quota import Limits, size_text

MERCIFUL_LOOKS = 3
"""Looks after an interrupt at which there may still be too many processes, before the instance is ended."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ends_instance``: the instance is ended and its turns are lost; else its turn is interrupted."""

    reason: Reason
    ends_instance: bool


def judge_memory(rss_bytes: int, quota: Limits, *, kernel_holds: bool = False) -> Verdict | None:
    """Above ``memory_bytes`` there is no waiting: the machine's other users would pay.

    Where the kernel holds the limit it counts exactly and is left to it: this
    figure, in which shared memory is counted several times, must be twice that.
    """
    limit = quota.memory_bytes
    if limit is None or rss_bytes <= limit * (2 if kernel_holds else 1):
        return None
    message = (
        f"out of memory: the session's processes took {size_text(rss_bytes)} and may take "
        f"{size_text(limit)}; they were ended, and the session goes on with the next message"
    )
    return Verdict(Reason("out_of_memory", message), ends_instance=True)


def judge_processes(count: int, looks_above: int, quota: Limits) -> Verdict | None:
    """``looks_above``: how many looks in a row have found too many, this one counted."""
    limit = quota.max_processes
    if limit is None or count <= limit:
        return None
    message = f"the session ran {count} processes and may run {limit}"
    if looks_above > 1 + MERCIFUL_LOOKS:
        return Verdict(Reason("too_many_processes", f"{message}; they were ended"), ends_instance=True)
    return Verdict(Reason("too_many_processes", f"{message}; the turn was interrupted"), ends_instance=False)


def judge_cpu(seconds_last_hour: float, quota: Limits) -> Verdict | None:
    """Above ``cpu_seconds_per_hour`` everything of the user is ended: what runs on would go on taking."""
    limit = quota.cpu_seconds_per_hour
    if limit is None or seconds_last_hour < limit:
        return None
    message = (
        f"your quota cpu_seconds_per_hour is used up: {seconds_last_hour:.0f} of {limit:g} seconds; "
        "the session's processes were ended"
    )
    return Verdict(Reason("quota_exceeded", message), ends_instance=True)


def judge_output(bytes_last_day: float, quota: Limits) -> Verdict | None:
    """Above ``output_bytes_per_day`` the turn is interrupted: what an instance prints is kept for long."""
    limit = quota.output_bytes_per_day
    if limit is None or bytes_last_day < limit:
        return None
    message = (
        f"your quota output_bytes_per_day is used up: {size_text(bytes_last_day)} of {size_text(limit)}; "
        "the turn was interrupted"
    )
    return Verdict(Reason("quota_exceeded", message), ends_instance=False)


class Lately:
    """What one user took in the last while, in slices of time, by times that the caller gives.

    Kept for everybody who was here in that while: as bare numbers, 16 bytes a slice.
    """

    WINDOW_SECONDS = 3600.0
    SLICE_SECONDS = 60.0

    def __init__(self) -> None:
        self._begins = array("d")
        self._amounts = array("d")

    def add(self, amount: float, now: float) -> None:
        """So much was taken just before ``now`` (monotonic seconds)."""
        if amount <= 0:
            return
        begin = now - now % self.SLICE_SECONDS
        if self._begins and self._begins[-1] == begin:
            self._amounts[-1] += amount
        else:
            self._begins.append(begin)
            self._amounts.append(amount)

    def used(self, now: float) -> float:
        """How much in the window before ``now``."""
        over = 0
        while over < len(self._begins) and now - self._begins[over] >= self.WINDOW_SECONDS:
            over += 1
        if over:
            del self._begins[:over], self._amounts[:over]
        return sum(self._amounts)


class CpuHour(Lately):
    """Seconds of processor time in the last hour, to the minute."""


class OutputDay(Lately):
    """Bytes of output in the last 24 hours, to the quarter of an hour."""

    WINDOW_SECONDS = 86400.0
    SLICE_SECONDS = 900.0
