"""When a failed attempt is made again, and after how long. Pure.

Only quick ones, and only before the caller has got a byte: whoever calls has
retries of its own, and waits longer than we should.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

ATTEMPTS = 3
RETRIED_STATUSES = frozenset({429, 502, 503, 529})
LONGEST_PAUSE_SECONDS = 2.0
# An attempt that took longer than this was no hiccup.
QUICK_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.25


def pause_before(attempt: int, headers: Mapping[str, str], chance: float) -> float | None:
    """Seconds to wait before ``attempt`` (2 is the first retry); None: do not retry.

    ``headers`` are those of the failed answer, none when there was no answer.
    ``chance`` is a random number from 0 to 1: callers that failed together
    come back apart.
    """
    if attempt > ATTEMPTS or headers.get("x-should-retry") == "false":
        return None
    backoff = _FIRST_PAUSE_SECONDS * 2 ** (attempt - 2)
    asked = _asked_for(headers)
    pause = max(asked, 0.0) + backoff * (0.5 + chance / 2)
    return pause if asked <= LONGEST_PAUSE_SECONDS else None


def _asked_for(headers: Mapping[str, str]) -> float:
    """What the upstream asks for, in seconds; endless for what cannot be read (a date)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is not None:
            try:
                seconds = float(value) * unit
            except ValueError:
                return math.inf
            return seconds if math.isfinite(seconds) else math.inf
    return 0.0
