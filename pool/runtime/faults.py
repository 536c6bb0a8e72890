"""Named pause points: places where a test stops the program to kill it there. No-ops in production.

A test sets ``CLAUDE_POOL_PAUSE`` in the server's environment to
``NAME:DIRECTORY``. At that point the program makes the file ``NAME.reached``
in the directory and waits until ``NAME.go`` is there.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

VARIABLE = "CLAUDE_POOL_PAUSE"


async def pause_point(name: str) -> None:
    """Wait here if a test asked for it; else return at once."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    point, _, directory = wanted.partition(":")
    if point != name:
        return
    (Path(directory) / f"{name}.reached").touch()
    while not (Path(directory) / f"{name}.go").exists():
        await asyncio.sleep(0.005)
