"""Numbers of a run: how long words take to their viewers, memory over time, processor seconds."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.holdings import resident_kib

_TICKS = os.sysconf("SC_CLK_TCK")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows for each x, by least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@dataclass(frozen=True, slots=True)
class Processor:
    """Processor seconds that a process has had, and for how long its main thread wanted one in vain.

    The second tells what other work on the machine adds to the time of everything.
    """

    seconds: float
    waited: float

    @classmethod
    def of(cls, pid: int) -> Processor:
        """Up to now."""
        directory = Path(f"/proc/{pid}")
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        waited = int((directory / "schedstat").read_text().split()[1]) / 1e9
        return cls((int(fields[11]) + int(fields[12])) / _TICKS, waited)

    def __sub__(self, before: Processor) -> Processor:
        return Processor(self.seconds - before.seconds, self.waited - before.waited)

    def __str__(self) -> str:
        return f"{self.seconds:.1f} ({self.waited:.1f})"


class FanOut:
    """Seconds from a word's writing by the CLI to its arrival at a viewer: all, and since the last look."""

    def __init__(self) -> None:
        self.all = array("f")
        self._looked = 0

    def note(self, nanoseconds: int) -> None:
        """A word that was written at this time of ``CLOCK_MONOTONIC`` is here now."""
        self.all.append((time.monotonic_ns() - nanoseconds) / 1e9)

    def recent(self) -> array[float]:
        """What was noted since this was asked last."""
        start, self._looked = self._looked, len(self.all)
        return self.all[start:]


@dataclass
class Memory:
    """Resident memory of some processes, by name, over time."""

    pids: dict[str, int]
    points: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def look(self) -> None:
        """Note what each has now: seconds and MiB."""
        for name, pid in self.pids.items():
            self.points.setdefault(name, []).append((time.monotonic(), resident_kib(pid) / 1024))

    def now(self) -> str:
        """The last look."""
        return ", ".join(f"{name} {points[-1][1]:.1f}" for name, points in self.points.items())

    def growth(self, name: str) -> float:
        """MiB an hour, over the second half of the looks."""
        points = self.points[name]
        return slope(points[len(points) // 2 :]) * 3600
