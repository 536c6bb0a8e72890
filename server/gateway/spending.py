"""How much each user has used today and this month: counters in memory, rebuilt from the journal at start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.gateway.usage_journal import Entry, UsageJournal, journal_files, read_entries

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a user has used in the running UTC day and month."""

    tokens_today: int = 0
    usd_today: float = 0.0
    usd_this_month: float = 0.0

    def plus(self, tokens: int, usd: float) -> Spent:
        """With a call that is still under way."""
        return Spent(self.tokens_today + tokens, self.usd_today + usd, self.usd_this_month + usd)


def day_of(at: float) -> int:
    """Which UTC day a moment is in, counted from 1970."""
    return int(at // 86400)


def month_of(at: float) -> int:
    """Which UTC month a moment is in, counted from the year 0."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.year * 12 + moment.month - 1


def next_day(at: float) -> float:
    """The UTC midnight after ``at``."""
    return float((day_of(at) + 1) * 86400)


def next_month(at: float) -> float:
    """The beginning of the UTC month after ``at``."""
    year, month = divmod(month_of(at) + 1, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


def month_start(at: float) -> float:
    """The beginning of the UTC month of ``at``."""
    year, month = divmod(month_of(at), 12)
    return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


@dataclass(slots=True)
class _Counter:
    day: int = 0
    tokens_today: int = 0
    usd_today: float = 0.0
    month: int = 0
    usd_this_month: float = 0.0

    def add(self, entry: Entry) -> None:
        """Entries may come out of order: those of an older day or month change nothing."""
        day, month = day_of(entry.at), month_of(entry.at)
        if day > self.day:
            self.day, self.tokens_today, self.usd_today = day, 0, 0.0
        if month > self.month:
            self.month, self.usd_this_month = month, 0.0
        if day == self.day:
            self.tokens_today += entry.tokens
            self.usd_today += entry.usd
        if month == self.month:
            self.usd_this_month += entry.usd


class Spending:
    """All users' counters. What another gateway writes is taken in within a second of being asked.

    The constructor reads the journal of the running month. ``forgotten`` gives
    until when what a name used counts for nobody.
    """

    def __init__(
        self,
        data_dir: Path,
        journal: UsageJournal,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        forgotten: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._forgotten = forgotten
        self._data_dir = data_dir
        self._journal = journal
        self._wall = wall
        self._monotonic = monotonic
        self._counters: dict[str, _Counter] = {}
        self._offsets: dict[str, int] = {}
        self._looked = 0.0
        self._look()

    def add(self, entry: Entry) -> None:
        """Count a call of this process; the journal has it too."""
        if entry.at > self._forgotten().get(entry.user, 0.0):
            self._counters.setdefault(entry.user, _Counter()).add(entry)

    def forget(self, user: str) -> None:
        """Begin at zero; for a name that ``forgotten`` has from now on."""
        self._counters.pop(user, None)

    def of(self, user: str) -> Spent:
        """What ``user`` has used by now, open calls left out."""
        if self._monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
        counter = self._counters.get(user)
        if counter is None:
            return Spent()
        now = self._wall()
        is_today, is_this_month = counter.day == day_of(now), counter.month == month_of(now)
        return Spent(
            counter.tokens_today if is_today else 0,
            counter.usd_today if is_today else 0.0,
            counter.usd_this_month if is_this_month else 0.0,
        )

    def _look(self) -> None:
        """Take in what other processes have written: those before us, and one that still drains."""
        # A day of grace: files are dated by the kernel's clock, entries by ours.
        since = month_start(self._wall()) - timedelta(days=1).total_seconds()
        self._looked = self._monotonic()
        for path in journal_files(self._data_dir):
            if path.name in self._journal.own_files:
                continue
            try:
                status = path.stat()
                if status.st_mtime >= since and status.st_size > self._offsets.get(path.name, 0):
                    self._read(path)
            except FileNotFoundError:
                # The server removes what is old and in its database.
                continue

    def _read(self, path: Path) -> None:
        offset = self._offsets.get(path.name, 0)
        while True:
            entries, end = read_entries(path, offset)
            for entry in entries:
                self.add(entry)
            self._offsets[path.name] = end
            if end == offset:
                return
            offset = end
