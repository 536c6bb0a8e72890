"""When silence is told of, and when it ends a turn."""

from __future__ import annotations

import pytest

from pool.policy.stall import Silence, TurnFacts, judge_silence


@pytest.mark.parametrize(
    ("seconds", "silence"),
    [
        (0, Silence.FINE),
        (599, Silence.FINE),
        (600, Silence.LONG),
        (1199, Silence.LONG),
        (1200, Silence.STALLED),
    ],
)
def test_silence_grows_long_and_then_ends_the_turn(seconds: float, silence: Silence) -> None:
    assert judge_silence(TurnFacts(silent_seconds=seconds), 600) is silence
    assert judge_silence(TurnFacts(silent_seconds=seconds), 0) is Silence.FINE


@pytest.mark.parametrize("waits_for", ["has_open_approval", "runs_tool", "is_retrying"])
def test_who_waits_for_something_may_be_silent_for_ever(waits_for: str) -> None:
    facts = TurnFacts(silent_seconds=1e9, **{waits_for: True})
    assert judge_silence(facts, 600) is Silence.FINE


@pytest.mark.parametrize(
    ("seconds", "silence"), [(19, Silence.FINE), (20, Silence.OVER), (1e9, Silence.OVER)]
)
def test_a_turn_that_has_its_result_is_not_waited_for_long(seconds: float, silence: Silence) -> None:
    facts = TurnFacts(silent_seconds=seconds, has_result=True)
    assert judge_silence(facts, 600) is silence
    assert judge_silence(facts, 0) is Silence.FINE
    assert (
        judge_silence(TurnFacts(silent_seconds=seconds, has_result=True, runs_tool=True), 600) is Silence.FINE
    )
