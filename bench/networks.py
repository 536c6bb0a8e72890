"""What the networks cost over ``gateway_only``: a start, a warm turn, memory; turn and turn about in one run.

The real CLI against the demo model, one pool for each network. No claim is
checked: the figures are for the decision record.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from bench.figures import printed
from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook
from pool.errors import IsolationUnavailable

STARTS = 12
TURNS = 30
NETWORKS: dict[str, dict[str, Any]] = {
    "gateway_only": {"isolation_network": "gateway_only"},
    "outbound": {"isolation_network": "outbound"},
    "named hosts": {"egress_allow": ("example.org",)},
}


async def ask(pool: ClaudeInstancePool, user: str, text: str) -> float:
    """Seconds to the end of one turn, a start included where the user has no instance."""
    begin = perf_counter()
    instance = await pool.get_or_create_instance(user)
    async for _ in instance.ask(text):
        pass
    return perf_counter() - begin


async def measure(directory: Path) -> dict[str, Any]:
    """Medians and ranges in milliseconds, by network."""
    async with AsyncExitStack() as stack:
        pools = {}
        for name, options in NETWORKS.items():
            base = directory / name.replace(" ", "-")
            places: dict[str, Any] = {"data_dir": base / "data", "runtime_dir": base / "run"}
            quotas = QuotaBook(default=Quota(turns_per_minute=None))
            try:
                config = PoolConfig(**places, quotas=quotas, **options)
                pools[name] = await stack.enter_async_context(ClaudeInstancePool(config))
            except IsolationUnavailable as error:
                sys.stderr.write(f"without {name}: {error.message}\n")
        starts: dict[str, list[float]] = {name: [] for name in pools}
        turns: dict[str, list[float]] = {name: [] for name in pools}
        for number in range(STARTS):
            for name, pool in pools.items():
                starts[name].append(await ask(pool, f"u{number}", "say one"))
                await pool.destroy_instance(f"u{number}")
        for pool in pools.values():
            await ask(pool, "warm", "say one")
            await ask(pool, "second", "say one")
        memory = list(helper_memory(directory))
        for number in range(TURNS):
            for name, pool in pools.items():
                turns[name].append(await ask(pool, "warm", f"say {number}"))
    times = {name: {"cold": summary(starts[name]), "warm": summary(turns[name])} for name in pools}
    return {**times, "helpers, idle, KiB": memory}


def helper_memory(directory: Path) -> Iterator[dict[str, Any]]:
    """Of each process that carries a session's traffic: its program, and its memory in KiB."""
    for process in psutil.process_iter():
        try:
            name, words = process.name(), process.cmdline()
            is_proxy = any(word.endswith("/egress.py") for word in words)
            if not (is_proxy or name == "slirp4netns") or not _is_below(process, directory):
                continue
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        except (psutil.Error, OSError):
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        own = sizes["Private_Clean"] + sizes["Private_Dirty"]
        yield {"program": name, "rss": sizes["Rss"], "pss": sizes["Pss"], "own": own}


def _is_below(process: psutil.Process, directory: Path) -> bool:
    """Is it of a keeper of this run?"""
    return any(str(directory) in word for parent in process.parents() for word in parent.cmdline())


def summary(samples: list[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    figures = {"median": statistics.median(samples), "least": min(samples), "most": max(samples)}
    return {name: round(value * 1000, 1) for name, value in figures.items()}


def main() -> int:
    """Print the figures."""
    printed(measure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
