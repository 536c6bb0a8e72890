"""``make simulate``: plays seeds one after the other; prints those that fail, exit 1 if any did."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.simulation.scenario import Story, play


def play_seed(seed: int, deeds: int) -> Story:
    """Play a seed in a directory of its own."""
    with TemporaryDirectory(prefix="cp-") as directory:
        return play(seed, Path(directory) / "data", deeds=deeds)


def main() -> int:
    """Play as many seeds as asked for; the same seed is the same story."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="the first one; the time of day if not given")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--deeds", type=int, default=12, help="of each user in each session")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else int(time.time())
    began, failed, seconds, turns = time.monotonic(), 0, 0, 0
    for seed in range(first, first + options.seeds):
        story = play_seed(seed, options.deeds)
        seconds += story.counts["seconds"]
        turns += story.counts["accepted"]
        for failure in story.failures[:10]:
            print(f"FAILED seed {seed}: {failure}", flush=True)
        failed += bool(story.failures)
    print(
        f"seeds {first} to {first + options.seeds - 1}: {turns} turns in {seconds} simulated seconds,"
        f" {time.monotonic() - began:.0f} s in all; {failed} failed"
    )
    if failed:
        print("again: python -m tests.simulation --seeds 1 --seed SEED")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
