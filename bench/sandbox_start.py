"""What the sandbox costs: the time to the first token with bubblewrap and without, turn and turn about.

The real CLI against the demo model, one pool for each side. The claims: the
median cold start grows by at most 60 ms, and the median warm turn by nothing
that its own spread (its quartiles) would not hide.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.bare_cli import is_text_delta
from bench.figures import printed
from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook

STARTS = 30
TURNS = 60
WARM_UP = 3
MOST_ADDED_MS = 60.0
SIDES: dict[str, dict[str, Any]] = {
    "none": {"isolation_mode": "none", "isolation_network": "open"},
    "bwrap": {"isolation_mode": "bwrap"},
}


async def first_token(pool: ClaudeInstancePool, user: str, text: str) -> float:
    """Milliseconds to the first text, a start included where the user has no instance."""
    begin = perf_counter()
    first = 0.0
    instance = await pool.get_or_create_instance(user)
    async for frame in instance.ask(text):
        if not first and is_text_delta(frame):
            first = perf_counter() - begin
    return first * 1000


async def measure(directory: Path) -> dict[str, Any]:
    """Milliseconds of both sides, and what the sandbox adds to the medians."""
    cold: dict[str, list[float]] = {side: [] for side in SIDES}
    warm: dict[str, list[float]] = {side: [] for side in SIDES}
    async with AsyncExitStack() as stack:
        pools = {}
        for side, options in SIDES.items():
            config = PoolConfig(
                data_dir=directory / side / "data",
                runtime_dir=directory / side / "run",
                quotas=QuotaBook(default=Quota(turns_per_minute=None)),
                **options,
            )
            pools[side] = await stack.enter_async_context(ClaudeInstancePool(config))
        for number in range(STARTS + WARM_UP):
            for side, pool in pools.items():
                cold[side].append(await first_token(pool, "cold", f"say {number}"))
                await pool.destroy_instance("cold")
        for number in range(TURNS + WARM_UP):
            for side, pool in pools.items():
                warm[side].append(await first_token(pool, "warm", f"say {number}"))
    return {"cold": compared(cold), "warm": compared(warm)}


def compared(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Median and quartiles of each side, and what ``bwrap`` has more."""
    figures = {side: quartiles(times[WARM_UP:]) for side, times in samples.items()}
    added = figures["bwrap"]["median"] - figures["none"]["median"]
    return {**figures, "added_ms": round(added, 2)}


def quartiles(times: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    low, median, high = statistics.quantiles(times, n=4)
    return {"low": round(low, 2), "median": round(median, 2), "high": round(high, 2)}


def main() -> int:
    """Print the figures; exit 1 when a claim does not hold."""
    figures = printed(measure)
    spread = figures["warm"]["none"]["high"] - figures["warm"]["none"]["low"]
    holds = figures["cold"]["added_ms"] <= MOST_ADDED_MS and figures["warm"]["added_ms"] <= spread
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
