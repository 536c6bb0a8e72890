"""What happened in a run, so that a failure can be told with its seed and a short history."""

from __future__ import annotations

import time
from collections import Counter, deque

_KEPT = 4000
_SHOWN = 25


class Story:
    """The last things that happened, with the second and who it happened to; and what went wrong."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self._began = time.monotonic()
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=_KEPT)

    def tell(self, who: str, what: str) -> None:
        """Note one thing. The first word of ``what`` is counted."""
        self.counts[what.split(maxsplit=1)[0]] += 1
        self._lines.append((time.monotonic() - self._began, who, what))

    def fail(self, who: str, what: str) -> None:
        """Note that an account does not come out."""
        self.failures.append(f"seed {self.seed}, {who}: {what}\n{self.of(who)}")

    def of(self, who: str) -> str:
        """The last lines of one user, and of the machine."""
        lines = [line for line in self._lines if line[1] in (who, "machine")][-_SHOWN:]
        return "\n".join(f"    {second:7.2f} s  {name}: {what}" for second, name, what in lines)
