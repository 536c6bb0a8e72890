"""Pools of threads that are whole from the beginning: how many there are does not follow what happened."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

BLOCKING_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""As many as asyncio would start one by one, for work that must not hold up the loop."""


def whole_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """An executor all of whose threads run; ``name`` is what theirs begin with."""
    executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
    # It starts a thread for each piece of work that meets none at rest: none rests before the last is there.
    all_there = threading.Barrier(threads)
    for _ in range(threads):
        executor.submit(all_there.wait)
    return executor
