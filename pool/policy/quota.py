"""A user's limits on what they ask for; ``pool.policy.admission`` has the one on instances."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from pool.errors import QuotaExceeded, RateLimited, Refused


class Limits(Protocol):
    """The part of ``pool.config.Quota`` that is judged here; None means no limit.

    Spelled out because the configuration reads the machine, and a policy may not.
    """

    @property
    def tokens_per_day(self) -> int | None:
        """Tokens, in and out, from midnight to midnight."""

    @property
    def usd_per_day(self) -> float | None:
        """Cost in US dollars from midnight to midnight."""

    @property
    def usd_per_month(self) -> float | None:
        """Cost in US dollars in a calendar month."""

    @property
    def cpu_seconds_per_hour(self) -> float | None:
        """Processor time of all of the user's processes in the last hour."""

    @property
    def memory_bytes(self) -> int | None:
        """Memory of one instance with all that it started."""

    @property
    def max_processes(self) -> int | None:
        """Processes of one instance: the CLI and all that it started."""

    @property
    def workspace_bytes(self) -> int | None:
        """Size of the user's workspace."""

    @property
    def output_bytes_per_day(self) -> int | None:
        """What the user's instances print in a day."""

    @property
    def max_sessions(self) -> int | None:
        """Sessions that are not archived."""

    @property
    def max_queued_turns(self) -> int | None:
        """Turns that wait, over all sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a user has used. Days and months are those of the gateway's journal (UTC).

    ``day_ends_in_seconds`` and ``month_ends_in_seconds`` tell when to come
    back.
    """

    tokens_today: int = 0
    usd_today: float = 0.0
    usd_this_month: float = 0.0
    cpu_seconds_last_hour: float = 0.0
    workspace_bytes: int = 0
    output_bytes_last_day: int = 0
    day_ends_in_seconds: float = 86400.0
    month_ends_in_seconds: float = 86400.0 * 31


def check_usage(usage: Usage, quota: Limits) -> Refused | None:
    """The refusal of a new turn for a user who has used up a limit, or None."""
    for name, used, limit, retry_after_seconds in (
        ("tokens_per_day", usage.tokens_today, quota.tokens_per_day, usage.day_ends_in_seconds),
        ("usd_per_day", usage.usd_today, quota.usd_per_day, usage.day_ends_in_seconds),
        ("usd_per_month", usage.usd_this_month, quota.usd_per_month, usage.month_ends_in_seconds),
        ("cpu_seconds_per_hour", usage.cpu_seconds_last_hour, quota.cpu_seconds_per_hour, 300.0),
        ("workspace_bytes", usage.workspace_bytes, quota.workspace_bytes, 60.0),
        ("output_bytes_per_day", usage.output_bytes_last_day, quota.output_bytes_per_day, 3600.0),
    ):
        if limit is not None and used >= limit:
            return _exceeded(name, used, limit, retry_after_seconds)
    return None


def check_session_count(count: int, quota: Limits) -> Refused | None:
    """The refusal of a new session for a user who has ``count`` of them, or None."""
    limit = quota.max_sessions
    return None if limit is None or count < limit else _exceeded("max_sessions", count, limit, 60.0)


def check_queued_turns(count: int, quota: Limits) -> Refused | None:
    """The refusal of a new turn for a user who has ``count`` queued already, or None."""
    limit = quota.max_queued_turns
    if limit is None or count < limit:
        return None
    return QuotaExceeded(
        f"quota exceeded: {count} of your turns wait already, and {limit} may wait over all sessions",
        retry_after_seconds=5.0,
        details={"quota": "max_queued_turns", "limit": limit, "used": count},
    )


class TurnRate:
    """The turns of one user in the last minute, by times that the caller gives."""

    WINDOW_SECONDS = 60.0

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def check(self, limit: int | None, now: float) -> Refused | None:
        """The refusal of a turn at ``now`` (monotonic seconds), or None. Takes nothing."""
        while self._times and now - self._times[0] >= self.WINDOW_SECONDS:
            self._times.popleft()
        if limit is None or len(self._times) < limit:
            return None
        # Room comes when so many of the oldest have left that fewer than ``limit`` are there.
        leaves = self._times[len(self._times) - limit] if limit > 0 else now
        return RateLimited(
            f"{limit} turns a minute are allowed",
            retry_after_seconds=max(0.1, leaves + self.WINDOW_SECONDS - now),
            details={"quota": "turns_per_minute", "limit": limit, "used": len(self._times)},
        )

    def take(self, now: float) -> None:
        """Count a turn that was accepted at ``now``."""
        self._times.append(now)

    @property
    def is_empty(self) -> bool:
        """Nothing to remember: the object may be dropped (after a ``check``)."""
        return not self._times


def size_text(size: float) -> str:
    """A number of bytes for a person: "5.1 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _exceeded(name: str, used: float, limit: float, retry_after_seconds: float) -> QuotaExceeded:
    show = size_text if "_bytes" in name else "{:g}".format
    return QuotaExceeded(
        f"your quota {name} is used up: {show(used)} of {show(limit)}",
        retry_after_seconds=retry_after_seconds,
        details={"quota": name, "limit": limit, "used": used},
    )
