"""The gateway's part of a warm turn: the same CLI with and without it, in one run, turn and turn about.

One CLI calls a provider on a unix socket, the other calls the gateway, which passes the call on to the
same provider over TCP, with a budget, prices and a list of models in force. The claim: the median time to
the first token grows by at most 3 ms.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import claude_agent_sdk

from bench.bare_cli import bare_cli, gateway
from bench.demo_upstream import demo_upstream
from bench.figures import printed
from bench.warm_turn import summary
from server.gateway.budgets import write_budgets
from server.gateway.settings import write_gateway_config

ROUNDS = 60
WARM_UP = 5
MOST_ADDED_MS = 3.0


async def measure(directory: Path) -> dict[str, object]:
    """Run both sides and return their medians and the difference."""
    cli = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    sides = {name: directory / name for name in ("direct", "through")}
    for path in sides.values():
        path.mkdir()
    async with demo_upstream(directory / "up.sock") as port:
        provider = {
            "kind": "gateway",
            "base_url": f"http://127.0.0.1:{port}",
            "api_key": "of-the-bench",
            "prices": {"*": {"input": 1.0, "output": 5.0}},
            "allowed_models": ["claude-*"],
        }
        write_gateway_config(sides["through"], {"upstream": provider})
        write_budgets(sides["through"], {"tokens_per_day": 10**12, "usd_per_month": 10**9}, {})
        async with (
            gateway(sides["through"]) as model_socket,
            bare_cli(cli, sides["direct"], directory / "up.sock") as direct,
            bare_cli(cli, sides["through"], model_socket) as through,
        ):
            await direct.initialize()
            await through.initialize()
            alone: list[tuple[float, float]] = []
            passed: list[tuple[float, float]] = []
            for number in range(ROUNDS + WARM_UP):
                text = f"say number {number}"
                # Whoever is second finds the caches warmer: they take turns at it.
                for one, samples in ((direct, alone), (through, passed))[:: 1 if number % 2 else -1]:
                    samples.append(await one.turn(text))
    alone, passed = alone[WARM_UP:], passed[WARM_UP:]
    differences = [ours[0] - theirs[0] for ours, theirs in zip(passed, alone, strict=True)]
    return {
        "rounds": ROUNDS,
        "direct": summary(alone),
        "through_the_gateway": summary(passed),
        "added_first_token_ms": round(
            summary(passed)["first_token_ms"] - summary(alone)["first_token_ms"], 2
        ),
        "median_of_pairs_ms": round(statistics.median(differences) * 1000, 2),
    }


def main() -> int:
    """Print the figures; exit 1 when the claim does not hold."""
    added = printed(measure)["added_first_token_ms"]
    return 0 if added <= MOST_ADDED_MS else 1


if __name__ == "__main__":
    sys.exit(main())
