"""What the pool counts of itself: plain numbers in memory that somebody else turns into a page.

Adding costs a dictionary look-up and an addition; nothing is locked, because
everything here is used on the event loop. Durations are in seconds. Labels
have few values each and never name a user, a session or an instance.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Labels = tuple[str, ...]

SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TURN_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram's state: ``counts`` has one number for each bound and one for what is above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One name with all its samples, as they are now. ``meaning`` says the unit where there is one."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: Labels
    samples: Sequence[tuple[Labels, float | Spread]]


class Count:
    """Numbers that only grow, one for each combination of label values. ``known`` ones begin at 0."""

    __slots__ = ("_labels", "_meaning", "_name", "_values")

    def __init__(
        self, name: str, meaning: str, labels: Labels = (), *, known: Iterable[Labels | str] = ()
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        begin = [one if isinstance(one, tuple) else (one,) for one in known]
        self._values: dict[Labels, int] = dict.fromkeys(begin if labels else [()], 0)

    def add(self, *labels: str, by: int = 1) -> None:
        """Count ``by`` more."""
        self._values[labels] = self._values.get(labels, 0) + by

    def value(self, *labels: str) -> int:
        """What was counted so far."""
        return self._values.get(labels, 0)

    def metric(self) -> Metric:
        """A copy for whoever shows it."""
        return Metric(self._name, "counter", self._meaning, self._labels, list(self._values.items()))


class Level:
    """Numbers that rise and fall, one for each of ``known``, the values of the one label."""

    __slots__ = ("_label", "_meaning", "_name", "_values")

    def __init__(self, name: str, meaning: str, label: str, known: Iterable[str]) -> None:
        self._name = name
        self._meaning = meaning
        self._label = label
        self._values = dict.fromkeys(known, 0)

    def change(self, label: str, by: int) -> None:
        """``by`` more, or less."""
        self._values[label] += by

    def metric(self) -> Metric:
        """A copy for whoever shows it."""
        samples = [((label,), value) for label, value in self._values.items()]
        return Metric(self._name, "gauge", self._meaning, (self._label,), samples)


class Histogram:
    """Durations sorted into buckets, one row of them for each combination of label values."""

    __slots__ = ("_bounds", "_labels", "_meaning", "_name", "_rows", "_totals")

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...], labels: Labels = ()) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._labels = labels
        self._rows: dict[Labels, list[int]] = {}
        self._totals: dict[Labels, float] = {}
        if not labels:
            self._begin(())

    def _begin(self, labels: Labels) -> list[int]:
        row = self._rows[labels] = [0] * (len(self._bounds) + 1)
        self._totals[labels] = 0.0
        return row

    def observe(self, seconds: float, *labels: str) -> None:
        """Count one duration."""
        row = self._rows.get(labels) or self._begin(labels)
        row[bisect_left(self._bounds, seconds)] += 1
        self._totals[labels] += seconds

    @contextmanager
    def timed(self, *labels: str) -> Iterator[None]:
        """Observe how long the block takes, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began, *labels)

    @contextmanager
    def judged(self, *labels: str) -> Iterator[None]:
        """As ``timed``, with a last label that says how the block ended: ``done`` or ``failed``."""
        began, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "done"
        finally:
            self.observe(time.perf_counter() - began, *labels, outcome)

    def count(self, *labels: str) -> int:
        """How many were observed."""
        return sum(self._rows.get(labels, ()))

    def metric(self) -> Metric:
        """A copy for whoever shows it."""
        samples: list[tuple[Labels, float | Spread]] = [
            (labels, Spread(self._bounds, tuple(row), self._totals[labels]))
            for labels, row in self._rows.items()
        ]
        return Metric(self._name, "histogram", self._meaning, self._labels, samples)


def gauge(name: str, meaning: str, value: float) -> Metric:
    """A number that was looked up just now."""
    return Metric(name, "gauge", meaning, (), [((), value)])


def gauges(name: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Numbers that were looked up just now, by the value of one label."""
    return Metric(name, "gauge", meaning, (label,), [((key,), value) for key, value in values])
