"""How often may the same name or address try to sign in: a moving window over attempts.

Kept in memory and bounded. Attempts that failed count; a success clears the
account's own. Time is an argument's clock, so that tests need not wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from pool.errors import RateLimited


class MovingWindow:
    """At most ``limit`` hits of a key within ``window_seconds``; remembers at most ``max_keys`` keys."""

    def __init__(
        self, limit: int, window_seconds: float, clock: Callable[[], float], *, max_keys: int = 10_000
    ) -> None:
        self._limit = limit
        self._window = window_seconds
        self._clock = clock
        self._max_keys = max_keys
        self._hits: OrderedDict[str, list[float]] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """0 when another hit is allowed now, else the seconds until it is."""
        hits = self._hits.get(key)
        if hits is None:
            return 0.0
        now = self._clock()
        hits[:] = [at for at in hits if at > now - self._window]
        if len(hits) < self._limit:
            return 0.0
        return hits[0] + self._window - now

    def hit(self, key: str) -> None:
        """Count one."""
        hits = self._hits.setdefault(key, [])
        hits.append(self._clock())
        del hits[: -self._limit]
        self._hits.move_to_end(key)
        if len(self._hits) > self._max_keys:
            self._hits.popitem(last=False)

    def take_back(self, key: str) -> None:
        """Uncount the newest hit: the attempt was good."""
        hits = self._hits.get(key)
        if hits:
            hits.pop()

    def clear(self, key: str) -> None:
        """Forget the key's hits."""
        self._hits.pop(key, None)


class LoginThrottle:
    """Ten failures a minute for an account, thirty for an address."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        per_account: int = 10,
        per_address: int = 30,
        window_seconds: float = 60,
    ) -> None:
        self._accounts = MovingWindow(per_account, window_seconds, clock)
        self._addresses = MovingWindow(per_address, window_seconds, clock)
        self._refused = MovingWindow(1, window_seconds, clock)

    def attempt(self, account: str, address: str) -> None:
        """Count an attempt before it is checked. Raises ``RateLimited``, also for a good password.

        Counted first, so that a thousand attempts at once are not all let through.
        """
        wait = max(self._accounts.wait_seconds(account), self._addresses.wait_seconds(address))
        if wait > 0:
            raise RateLimited("too many attempts to sign in; wait and try again", retry_after_seconds=wait)
        self._accounts.hit(account)
        self._addresses.hit(address)

    def is_first_refusal(self, address: str) -> bool:
        """Was the address not refused before within the window? Counts it."""
        if self._refused.wait_seconds(address) > 0:
            return False
        self._refused.hit(address)
        return True

    def succeeded(self, account: str, address: str) -> None:
        """The attempt was good: it counts for nobody."""
        self._accounts.clear(account)
        self._addresses.take_back(address)
