"""What a process of ours tells the C library's allocator: give back what is free, keep few heaps."""

from __future__ import annotations

import asyncio
import ctypes

# malloc.h of glibc; mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_HEAPS = 2
_OWN_MAPPING_BYTES = 4 << 20
_KEPT_BYTES = 2 << 20
# Giving back takes some milliseconds of a heap of 60 MiB, and whoever wants memory of it waits.
_EVERY_SECONDS = 300.0


def give_memory_back() -> bool:
    """Call it once, before the first thread: what the process holds then stays what it uses.

    Left alone, glibc gives each thread a heap of its own, up to eight a
    processor, and none of them is ever empty enough to be given back. And the
    first large block that is freed (19 MiB, for a password's hash) raises the
    size from which on blocks are returned at once, so that every thread that
    has hashed keeps such a block. False where the C library has no such options.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = (
        (_M_ARENA_MAX, _HEAPS),
        (_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
    )
    return all(mallopt(option, value) == 1 for option, value in wanted)


async def give_holes_back() -> None:
    """Every five minutes; never returns, but where the C library cannot do it.

    Freed memory below something that lives long, a session's newest frames
    say, stays with the process until it is asked for it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(_EVERY_SECONDS)
        await asyncio.to_thread(trim, 0)
