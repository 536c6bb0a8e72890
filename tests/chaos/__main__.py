"""``make chaos``: prints what was done and how the accounts come out; exit 1 when one does not."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.chaos.run import Plan, Run, chaos


def _real_cli() -> Path | None:
    spec = find_spec("claude_agent_sdk")
    path = Path(spec.origin).parent / "_bundled" / "claude" if spec and spec.origin else None
    return path if path is not None and path.exists() else None


def report(run: Run, seconds: float) -> None:
    """The figures, then every failure."""
    plan = run.plan
    print(
        f"seed {plan.seed}: {plan.fakes} fake and {plan.reals} real CLIs, {plan.seconds:.0f} s of trouble,"
        f" {seconds:.0f} s in all"
    )
    print("  done:    " + ", ".join(f"{name} {n}" for name, n in sorted(run.story.counts.items())))
    print("  counted: " + ", ".join(f"{name} {n}" for name, n in sorted(run.counted.items())))
    for figure in run.figures:
        print(f"  {figure}")
    for failure in run.story.failures:
        print(f"FAILED {failure}")
    print(f"  {len(run.story.failures)} failures")


def main() -> int:
    """Play as many runs as there are seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--fakes", type=int, default=30)
    parser.add_argument("--reals", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the data directory and the server's log")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    real_cli = _real_cli()
    reals = options.reals if real_cli is not None else 0
    if reals < options.reals:
        print("there is no real CLI here: the fake ones are alone")
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    directory.chmod(0o711)
    print(f"seed {seed}, in {directory}", flush=True)
    began = time.monotonic()
    try:
        plan = Plan(seed, options.seconds, options.fakes, reals)
        run = asyncio.run(chaos(plan, directory, real_cli))
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    report(run, time.monotonic() - began)
    return 1 if run.story.failures else 0


if __name__ == "__main__":
    sys.exit(main())
