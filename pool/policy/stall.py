"""When a turn that says nothing is told of, and when it is ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Silence(Enum):
    """What a turn's silence means."""

    FINE = "fine"
    LONG = "long"
    """An operator is told."""
    STALLED = "stalled"
    """The turn is interrupted."""
    OVER = "over"
    """Its result is there and its end never came: the user gets the result, the instance is replaced."""


AFTER_RESULT_SECONDS = 20.0
"""How long a turn with a result may say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnFacts:
    """What matters about an open turn. ``silent_seconds``: since its last output or the first look.

    Somebody or something is waited for: ``has_open_approval``, ``runs_tool``
    (a call without an answer, or a process that was started during the turn),
    ``is_retrying`` (a model call is made again after a while). ``has_result``:
    all that is owed is the word that the turn has ended.
    """

    silent_seconds: float
    has_open_approval: bool = False
    runs_tool: bool = False
    is_retrying: bool = False
    has_result: bool = False

    @property
    def is_waiting(self) -> bool:
        """Is its silence the sound of work?"""
        return self.has_open_approval or self.runs_tool or self.is_retrying


def judge_silence(facts: TurnFacts, stall_seconds: float) -> Silence:
    """Long after ``stall_seconds``, stalled after twice that. 0 means never."""
    if stall_seconds <= 0 or facts.is_waiting:
        return Silence.FINE
    if facts.has_result and facts.silent_seconds >= min(stall_seconds, AFTER_RESULT_SECONDS):
        return Silence.OVER
    if facts.silent_seconds < stall_seconds:
        return Silence.FINE
    return Silence.STALLED if facts.silent_seconds >= 2 * stall_seconds else Silence.LONG
