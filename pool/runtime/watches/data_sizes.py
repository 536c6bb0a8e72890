"""How much the data directory takes, part by part: measured once an hour, in slices, for people who look."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

# A thread that counts is busy for at most a tenth of the time.
_REST_PER_WORK = 9.0


class DataSizes:
    """``measure`` counts, a slice an item; the last is the result: bytes by part."""

    def __init__(self, measure: Callable[[], Iterator[dict[str, int]]]) -> None:
        self._measure = measure
        self.sizes: dict[str, int] | None = None

    async def look(self) -> None:
        """Count everything once."""
        slices, found = self._measure(), None
        try:
            while True:
                began = time.perf_counter()
                step = await asyncio.to_thread(next, slices, None)
                if step is None:
                    break
                found = step
                await asyncio.sleep(_REST_PER_WORK * (time.perf_counter() - began))
        finally:
            with contextlib.suppress(ValueError):  # the slice under way is given up with the generator
                slices.close()  # type: ignore[attr-defined]
        self.sizes = found

    def check(self) -> dict[str, Any]:
        """How the health page tells it."""
        return {"ok": True, "detail": describe(self.sizes) if self.sizes else "not measured yet"}


def describe(sizes: dict[str, int]) -> str:
    """In words, in MiB."""
    return ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items())
