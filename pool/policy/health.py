"""Is an instance alive, and does it answer? And when is it worth asking?

Unknown is not dead: whoever cannot be reached is waited for. Wedged is a
process that lives and does not answer; it is ended, because it serves nobody.
Asking costs little, but thousands of idle instances are not asked again and
again: only who gives cause for doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ANSWER_SECONDS = 20.0
"""A CLI answers within milliseconds, also at work (measured); so long only under a heavy load."""
TRUST_SECONDS = 60.0
"""Whoever was heard of since then is not asked before a message."""
STOPPED_LOOKS = 2
"""Looks in a row that find a process stopped (by SIGSTOP) before it is asked."""


class Health(Enum):
    """How an instance is."""

    ALIVE = "alive"
    UNKNOWN = "unknown"
    """It was asked and may still answer, or its keeper is away."""
    WEDGED = "wedged"
    """It lives and does not answer."""
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFacts:
    """``unanswered_seconds``: since the oldest question without an answer; None: there is none."""

    has_exited: bool = False
    is_reachable: bool = True
    unanswered_seconds: float | None = None


def judge_health(facts: HealthFacts) -> Health:
    """What the facts say."""
    if facts.has_exited:
        return Health.DEAD
    if not facts.is_reachable:
        return Health.UNKNOWN
    if facts.unanswered_seconds is None:
        return Health.ALIVE
    return Health.WEDGED if facts.unanswered_seconds >= ANSWER_SECONDS else Health.UNKNOWN


def is_doubtful(*, has_open_turn: bool, silent_seconds: float, stopped_looks: int) -> bool:
    """Ask it? Idle ones are quiet by nature; their turn comes before the next message."""
    return stopped_looks >= STOPPED_LOOKS or (has_open_turn and silent_seconds >= TRUST_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleFacts:
    """What an idle instance took. ``cpu_seconds`` is its processor time since it is idle."""

    idle_seconds: float
    cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WearLimits:
    """What an idle instance may take; 0: never replaced for this."""

    idle_rss_bytes: int = 0
    idle_spin_seconds: float = 0.0


_SPINNING = 0.5
"""Of a core. An idle CLI takes about a hundredth (measured)."""


def is_worn(facts: IdleFacts, limits: WearLimits) -> str | None:
    """Why an idle instance is replaced, in words for the log; None: it is good."""
    if 0 < limits.idle_rss_bytes < facts.rss_bytes:
        return "its memory had grown"
    window = limits.idle_spin_seconds
    if 0 < window <= facts.idle_seconds and facts.cpu_seconds >= _SPINNING * facts.idle_seconds:
        return "it took processor time while it was idle"
    return None
