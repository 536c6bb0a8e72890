"""``make crowd``: prints a line a minute and the figures; exit 1 when an account does not come out."""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crowd.run import Crowd, Plan
from tests.fakes.fake_claude import build

MAX_GROWTH_MIB = 16.0
_LONG_SECONDS = 1800
# Of the work that is due whoever is there, some comes now and then.
_IDLE_FACTOR, _IDLE_MORE = 1.5, 0.5


def judged(crowd: Crowd) -> list[str]:
    """What the figures say against it; a short run says nothing of growth."""
    problems = list(crowd.story.failures)
    if crowd.plan.seconds >= _LONG_SECONDS:
        growth = {name: crowd.memory.growth(name) for name in crowd.memory.points}
        problems += [
            f"the {name} grows by {mib:.1f} MiB an hour"
            for name, mib in growth.items()
            if mib > MAX_GROWTH_MIB
        ]
    if len(crowd.idle_cpu) == 2 and crowd.idle_cpu[1] > crowd.idle_cpu[0] * _IDLE_FACTOR + _IDLE_MORE:
        problems.append(f"idle costs more when more are known: {crowd.idle_cpu} processor seconds a minute")
    return problems


def main() -> int:
    """One run."""
    parser = argparse.ArgumentParser(prog="python -m tests.crowd", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--keep", action="store_true", help="keep the data directory and the server's log")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    directory.chmod(0o711)
    print(f"seed {seed}, in {directory}", flush=True)
    # A collection that looks at a million notes would hold up this process, and the words in it.
    gc.disable()
    try:
        crowd = Crowd(Plan(seed, options.seconds), directory, Path(build(str(directory / "fake_claude"))))
        asyncio.run(crowd.play())
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    print("  done:    " + ", ".join(f"{name} {n}" for name, n in sorted(crowd.story.counts.items())))
    print("  counted: " + ", ".join(f"{name} {n}" for name, n in sorted(crowd.counted.items())))
    problems = judged(crowd)
    for problem in problems:
        print(f"FAILED {problem}")
    print(f"  {len(problems)} failures")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
