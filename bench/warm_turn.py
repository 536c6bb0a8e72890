"""Warm turn: the pool's added latency over the bare CLI on pipes, in one run, turn and turn about.

Both sides run the same real CLI with the same arguments against the same demo
model. The claim: the median of a pool's warm turn is at most 1.25 times the
bare CLI's, to the first token and to the end.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import claude_agent_sdk

from bench.bare_cli import bare_cli, gateway, is_text_delta
from bench.figures import printed
from pool import ClaudeInstancePool, PoolConfig, Quota, QuotaBook
from pool.runtime.pooled import PooledInstance

ROUNDS = 30
WARM_UP = 5


async def pool_turn(instance: PooledInstance, text: str) -> tuple[float, float]:
    """(seconds to the first text delta, seconds to the end of the turn)."""
    begin = perf_counter()
    first = 0.0
    async for frame in instance.ask(text):
        if not first and is_text_delta(frame):
            first = perf_counter() - begin
    return first, perf_counter() - begin


def summary(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians in milliseconds."""
    firsts, wholes = zip(*samples, strict=True)
    return {
        "first_token_ms": round(statistics.median(firsts) * 1000, 2),
        "turn_ms": round(statistics.median(wholes) * 1000, 2),
    }


async def measure(directory: Path) -> dict[str, object]:
    """Run both sides and return their medians and ratios."""
    cli = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    (directory / "bare").mkdir()
    config = PoolConfig(
        data_dir=directory / "data",
        runtime_dir=directory / "run",
        cli_path=cli,
        quotas=QuotaBook(default=Quota(turns_per_minute=None)),
    )
    async with (
        gateway(directory / "bare") as model_socket,
        bare_cli(cli, directory / "bare", model_socket) as bare,
        ClaudeInstancePool(config) as pool,
    ):
        await bare.initialize()
        instance = await pool.get_or_create_instance("bench")
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        for number in range(ROUNDS + WARM_UP):
            text = f"say number {number}"
            theirs.append(await bare.turn(text))
            ours.append(await pool_turn(instance, text))
        isolation = pool.isolation()[:2]
    pooled, alone = summary(ours[WARM_UP:]), summary(theirs[WARM_UP:])
    return {
        "rounds": ROUNDS,
        "isolation": isolation,
        "bare": alone,
        "pool": pooled,
        "ratio": {name: round(pooled[name] / alone[name], 3) for name in alone},
    }


def main() -> int:
    """Print the figures; exit 1 when the claim does not hold."""
    ratio = printed(measure)["ratio"]
    return 0 if max(ratio.values()) <= 1.25 else 1


if __name__ == "__main__":
    sys.exit(main())
