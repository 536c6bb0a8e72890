"""How a turn has ended.

A turn's outcome comes from the last ``result`` before the CLI says
``completed`` or ``cancelled`` of its message (a turn that the CLI began by
itself: its own result). Results are never counted: the CLI folds messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool.lifecycle.turn import TurnEvent
from pool.model import ExitStatus, Reason, TurnState
from pool.protocol.frames import Result

MAX_MESSAGE_CHARACTERS = 2000

INTERRUPTED = Reason("interrupted", "The turn was interrupted.")
CANCELLED = Reason("cancelled", "The turn was ended by the CLI before it was done.")

_EVENTS = {
    TurnState.SUCCEEDED: TurnEvent.ENDED_WELL,
    TurnState.FAILED: TurnEvent.ENDED_BADLY,
    TurnState.INTERRUPTED: TurnEvent.ENDED_INTERRUPTED,
    TurnState.LOST: TurnEvent.INSTANCE_LOST,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A turn's end: the state, and why if it did not succeed."""

    state: TurnState
    reason: Reason | None = None

    @property
    def event(self) -> TurnEvent:
        """What to feed to the turn's machine."""
        return _EVENTS[self.state]


def outcome_of(
    result: Result | None,
    *,
    interrupted: bool = False,
    cancelled: bool = False,
    why: Reason = INTERRUPTED,
) -> Outcome:
    """The outcome of a turn that the CLI has ended.

    ``result`` is the last one since the turn began, None if there was none.
    ``cancelled`` tells lifecycle ``cancelled`` from ``completed``;
    ``interrupted`` says that we asked for the end, and ``why``.
    """
    aborted = result is not None and (result.terminal_reason or "").startswith("aborted")
    failed = result is not None and result.is_error
    # An API error is told as ``cancelled`` too (measured), with its result before it.
    if aborted or (cancelled and not failed):
        return Outcome(TurnState.INTERRUPTED, why if interrupted or aborted else CANCELLED)
    if result is None or not result.is_error:
        return Outcome(TurnState.SUCCEEDED)
    if interrupted and result.subtype == "error_during_execution":
        return Outcome(TurnState.INTERRUPTED, why)
    return Outcome(TurnState.FAILED, _reason(result))


def outcome_of_exit(status: ExitStatus) -> Outcome:
    """The outcome of a turn whose instance ended under it."""
    message = f"The claude process {status.describe()} while it worked on this turn."
    return Outcome(TurnState.LOST, Reason("instance_gone", message, status.code, status.signal))


def _reason(result: Result) -> Reason:
    code = result.terminal_reason or (result.subtype or "").removeprefix("error_")
    if code in ("", "success", "completed"):
        code = "failed"
    text = result.result or "; ".join(result.errors)
    return Reason(code, _presentable(text) or f"The turn failed ({code}).")


def _presentable(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8").strip()
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"
