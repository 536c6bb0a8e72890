"""``make soak``: prints what was held before and after; exit 1 when something stays or memory grows."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.fake_claude import build
from tests.soak.cycles import Cycles
from tests.soak.day import day

MAX_GROWTH_KIB = 16 * 1024


def _cycles(directory: Path, count: int, seed: int) -> list[str]:
    result = asyncio.run(Cycles(directory, seed, 0.01).run(count))
    growth = result.resident_kib[-1] - result.resident_kib[0]
    print(f"{count} starts and stops in {result.seconds:.0f} s")
    print("  " + ", ".join(f"{name} {number}" for name, number in sorted(result.outcomes.items())))
    print(f"  resident KiB after the warm-up, at half, at the end: {result.resident_kib}; growth {growth}")
    return [*result.left, *([f"memory grew by {growth} KiB"] if growth > MAX_GROWTH_KIB else [])]


def _day(directory: Path, count: int, seed: int) -> list[str]:
    cli = Path(build(str(directory / "fake_claude")))
    result = asyncio.run(day(directory, cli, count, 12, seed))
    print(f"{count} cycles in {result.seconds:.0f} s: {dict(result.done)}")
    print(f"  resident KiB: {result.resident_kib}; growth {result.growth_kib}")
    grew = [f"the server grew by {result.growth_kib} KiB"] if result.growth_kib > MAX_GROWTH_KIB else []
    return [*result.left, *grew]


def main() -> int:
    """Both parts, or one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--starts", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=100_000)
    options = parser.parse_args()
    # What fails on purpose need not be read.
    logging.disable(logging.CRITICAL)
    print(f"seed {options.seed}", flush=True)
    problems = []
    for part, count in ((_cycles, options.starts), (_day, options.cycles)):
        if count:
            directory = Path(tempfile.mkdtemp(prefix="cp-"))
            directory.chmod(0o711)
            try:
                problems += part(directory, count, options.seed)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    for problem in problems:
        print(f"FAILED seed {options.seed}: {problem}")
    print(f"{len(problems)} failures")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
