"""The figures of a benchmark: measured in a directory of its own, printed as JSON."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any


def printed(measure: Callable[[Path], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    """What ``measure`` gave, once it stands on standard output; its directory is gone then."""
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        figures = asyncio.run(measure(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write(json.dumps(figures) + "\n")
    return figures
