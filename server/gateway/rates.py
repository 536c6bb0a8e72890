"""How fast each user and team may call: calls and tokens of the last minute, counted in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.gateway.budgets import RateLimits

WINDOW_SECONDS = 60.0
# Beyond these the oldest are let go: a rate of more is no limit that a person would set.
_MOST_REMEMBERED = 100_000
_SWEEP_EVERY = 1000


@dataclass(frozen=True, slots=True)
class TooFast:
    """A rate that is reached, of whom, and when to come back."""

    name: str
    limit: int
    seconds: float
    team: str | None = None

    def __str__(self) -> str:
        whose = f"the team {self.team}" if self.team else "you"
        return f"{self.name}: {self.limit:,} for {whose}"


class _Window:
    """Amounts of the last minute and their sum."""

    __slots__ = ("_items", "total")

    def __init__(self) -> None:
        self._items: deque[tuple[float, int]] = deque(maxlen=_MOST_REMEMBERED)
        self.total = 0

    def add(self, now: float, amount: int) -> None:
        if len(self._items) == _MOST_REMEMBERED:
            self.total -= self._items[0][1]
        self._items.append((now, amount))
        self.total += amount

    def age(self, now: float) -> None:
        while self._items and self._items[0][0] <= now - WINDOW_SECONDS:
            self.total -= self._items.popleft()[1]

    def seconds_until_below(self, limit: int, now: float) -> float:
        """0 when the sum is below ``limit``, else when enough of the oldest have left."""
        self.age(now)
        left = self.total
        if left < limit:
            return 0.0
        for at, amount in self._items:
            left -= amount
            if left < limit:
                return at + WINDOW_SECONDS - now
        return WINDOW_SECONDS


class Rates:
    """The windows of all users and teams. ``monotonic`` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._windows: dict[tuple[str, str], tuple[_Window, _Window]] = {}
        self._since_sweep = 0

    def reached(self, key: tuple[str, str], limits: RateLimits) -> TooFast | None:
        """The rate that ``key`` (``("user", name)`` or ``("team", name)``) has reached; the longest wait."""
        windows = self._windows.get(key)
        now = self._monotonic()
        team = key[1] if key[0] == "team" else None
        found = []
        for at, (name, limit) in enumerate(limits.rates()):
            if limit is None:
                continue
            if limit == 0:
                found.append(TooFast(name, limit, WINDOW_SECONDS, team))
                continue
            seconds = windows[at].seconds_until_below(limit, now) if windows is not None else 0.0
            if seconds > 0:
                found.append(TooFast(name, limit, seconds, team))
        return max(found, key=lambda one: one.seconds, default=None)

    def count(self, key: tuple[str, str], *, calls: int = 0, tokens: int = 0) -> None:
        """A call began, or tokens were told."""
        now = self._monotonic()
        windows = self._windows.setdefault(key, (_Window(), _Window()))
        for window, amount in zip(windows, (calls, tokens), strict=True):
            if amount:
                window.add(now, amount)
        self._since_sweep += 1
        if self._since_sweep >= _SWEEP_EVERY:
            self._sweep(now)

    def forget(self, key: tuple[str, str]) -> None:
        """Begin at zero."""
        self._windows.pop(key, None)

    def _sweep(self, now: float) -> None:
        """Forget who was quiet for a minute."""
        self._since_sweep = 0
        for key, windows in list(self._windows.items()):
            for window in windows:
                window.age(now)
            if not any(window.total for window in windows):
                del self._windows[key]
