"""How a turn has ended, from results as the CLI prints them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pool.lifecycle.turn import TurnEvent
from pool.model import ExitStatus, Reason, TurnState
from pool.policy.outcome import MAX_MESSAGE_CHARACTERS, Outcome, outcome_of, outcome_of_exit
from pool.protocol.frames import Result
from pool.protocol.parsing import parse_frame


def result(**fields: Any) -> Result:
    value = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "terminal_reason": "completed",
        **fields,
    }
    frame = parse_frame(json.dumps(value).encode())
    assert isinstance(frame, Result)
    return frame


ABORTED = result(
    subtype="error_during_execution", is_error=True, terminal_reason="aborted_streaming", errors=["aborted"]
)


def test_it_went_well() -> None:
    assert outcome_of(result(result="done")) == Outcome(TurnState.SUCCEEDED)
    assert outcome_of(result(terminal_reason=None)) == Outcome(TurnState.SUCCEEDED)  # a local command


def test_an_interrupt_that_came_too_late_changes_nothing() -> None:
    assert outcome_of(result(), interrupted=True) == Outcome(TurnState.SUCCEEDED)


def test_success_by_name_with_an_error_is_a_failure_with_the_apis_own_words() -> None:
    text = 'API Error: 400 {"type":"error"}'
    outcome = outcome_of(
        result(is_error=True, result=text, terminal_reason="api_error", api_error_status=400)
    )
    assert outcome == Outcome(TurnState.FAILED, Reason("api_error", text))


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (
            {"subtype": "error_max_turns", "terminal_reason": "max_turns", "errors": ["a", "b"]},
            "max_turns",
            "a; b",
        ),
        ({"subtype": "error_max_budget_usd", "terminal_reason": None}, "max_budget_usd", None),
        ({"subtype": "success", "terminal_reason": "completed"}, "failed", None),
        ({"subtype": None, "terminal_reason": None}, "failed", None),
    ],
)
def test_other_failures_name_their_code(fields: dict[str, Any], code: str, message: str | None) -> None:
    outcome = outcome_of(result(is_error=True, **fields))
    assert outcome.state is TurnState.FAILED
    assert outcome.reason == Reason(code, message or f"The turn failed ({code}).")


def test_interrupted_by_us_for_the_reason_that_we_had() -> None:
    why = Reason("turn_timeout", "the turn ran longer than 3600 s")
    assert outcome_of(ABORTED, interrupted=True, why=why) == Outcome(TurnState.INTERRUPTED, why)
    assert outcome_of(None, cancelled=True, interrupted=True, why=why) == Outcome(TurnState.INTERRUPTED, why)
    plain = result(subtype="error_during_execution", is_error=True, terminal_reason=None)
    assert outcome_of(plain, interrupted=True).state is TurnState.INTERRUPTED
    assert outcome_of(plain).state is TurnState.FAILED


def test_interrupted_by_a_denied_approval() -> None:
    outcome = outcome_of(ABORTED)
    assert outcome.state is TurnState.INTERRUPTED
    assert outcome.reason == Reason("interrupted", "The turn was interrupted.")


def test_cancelled_by_the_cli() -> None:
    for last in (None, result(result="half an answer")):
        outcome = outcome_of(last, cancelled=True)
        assert outcome.state is TurnState.INTERRUPTED
        assert outcome.reason is not None
        assert outcome.reason.code == "cancelled"


def test_completed_without_a_result_of_its_own_is_a_success() -> None:
    assert outcome_of(None) == Outcome(TurnState.SUCCEEDED)


def test_lost_with_its_process() -> None:
    outcome = outcome_of_exit(ExitStatus(signal="SIGKILL"))
    assert outcome.state is TurnState.LOST
    assert outcome.reason == Reason(
        "instance_gone",
        "The claude process was ended by SIGKILL while it worked on this turn.",
        None,
        "SIGKILL",
    )


def test_an_outcome_knows_its_event() -> None:
    assert outcome_of(result()).event is TurnEvent.ENDED_WELL
    assert outcome_of(result(is_error=True)).event is TurnEvent.ENDED_BADLY
    assert outcome_of(ABORTED).event is TurnEvent.ENDED_INTERRUPTED
    assert outcome_of_exit(ExitStatus()).event is TurnEvent.INSTANCE_LOST


def test_a_reason_can_be_stored_and_stays_short() -> None:
    outcome = outcome_of(result(is_error=True, result="\ud83d" + "x" * 5000))
    assert outcome.reason is not None
    outcome.reason.message.encode()
    assert len(outcome.reason.message) == MAX_MESSAGE_CHARACTERS
