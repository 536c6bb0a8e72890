"""Stories of a turn."""

from __future__ import annotations

import pytest

from pool.errors import InvalidTransition
from pool.lifecycle.turn import TurnCommand as C
from pool.lifecycle.turn import TurnEvent as E
from pool.lifecycle.turn import TurnMachine
from pool.model import TurnState as S
from tests.pool.lifecycle.standing import stands_at

ENDING = (C.RECORD, C.PUBLISH)


def dispatching() -> TurnMachine:
    turn = TurnMachine("t-1")
    assert turn.feed(E.DISPATCHED) == (C.RECORD, C.WRITE_MESSAGE)
    assert stands_at(turn, S.DISPATCHING)
    return turn


def running() -> TurnMachine:
    turn = dispatching()
    assert turn.feed(E.STARTED) == (C.RECORD, C.PUBLISH)
    assert stands_at(turn, S.RUNNING)
    return turn


def awaiting() -> TurnMachine:
    turn = running()
    assert turn.feed(E.PERMISSION_ASKED) == (C.RECORD,)
    assert stands_at(turn, S.AWAITING)
    return turn


@pytest.mark.parametrize(
    ("event", "end"),
    [(E.ENDED_WELL, S.SUCCEEDED), (E.ENDED_BADLY, S.FAILED), (E.ENDED_INTERRUPTED, S.INTERRUPTED)],
)
def test_a_turn_runs_to_its_end(event: E, end: S) -> None:
    turn = running()
    assert turn.feed(event) == ENDING
    assert turn.state is end
    assert turn.has_ended


def test_two_approvals_then_the_end() -> None:
    turn = awaiting()
    assert turn.feed(E.PERMISSION_ASKED) == ()
    assert turn.feed(E.PERMISSION_SETTLED) == (C.RECORD,)
    assert stands_at(turn, S.RUNNING)
    turn.feed(E.PERMISSION_ASKED)
    turn.feed(E.PERMISSION_SETTLED)
    assert turn.feed(E.ENDED_WELL) == ENDING


def test_interrupted_while_queued_it_is_withdrawn() -> None:
    turn = TurnMachine("t-1")
    assert turn.feed(E.INTERRUPT_REQUESTED) == ENDING
    assert stands_at(turn, S.WITHDRAWN)


def test_queued_too_long_it_is_withdrawn() -> None:
    turn = TurnMachine("t-1")
    assert turn.feed(E.DEADLINE_PASSED) == ENDING
    assert stands_at(turn, S.WITHDRAWN)


def test_queued_it_outlives_a_crash_but_not_a_fault() -> None:
    turn = TurnMachine("t-1")
    assert turn.feed(E.INSTANCE_LOST) == ()
    assert turn.feed(E.REATTACHED) == ()
    assert stands_at(turn, S.QUEUED)
    assert turn.feed(E.SESSION_FAULTED) == ENDING
    assert stands_at(turn, S.FAILED)


def test_interrupted_while_it_runs() -> None:
    turn = running()
    assert turn.feed(E.INTERRUPT_REQUESTED) == (C.RECORD, C.SEND_INTERRUPT, C.ARM_GRACE)
    assert stands_at(turn, S.RUNNING)
    assert turn.feed(E.ENDED_INTERRUPTED) == ENDING
    assert stands_at(turn, S.INTERRUPTED)


def test_interrupted_before_the_cli_took_it_up() -> None:
    turn = dispatching()
    assert turn.feed(E.INTERRUPT_REQUESTED) == (C.RECORD, C.SEND_INTERRUPT, C.ARM_GRACE)
    assert turn.feed(E.ENDED_INTERRUPTED) == ENDING
    assert stands_at(turn, S.INTERRUPTED)


def test_interrupted_while_somebody_is_asked() -> None:
    turn = awaiting()
    assert turn.feed(E.INTERRUPT_REQUESTED) == (C.RECORD, C.SEND_INTERRUPT, C.ARM_GRACE)
    assert stands_at(turn, S.AWAITING)
    assert turn.feed(E.ENDED_INTERRUPTED) == (C.CLOSE_PERMISSIONS, *ENDING)


def test_interrupted_too_late_it_succeeds() -> None:
    turn = running()
    turn.feed(E.INTERRUPT_REQUESTED)
    assert turn.feed(E.ENDED_WELL) == ENDING
    assert stands_at(turn, S.SUCCEEDED)


def test_interrupted_and_not_heard_the_instance_is_stopped() -> None:
    turn = running()
    turn.feed(E.DEADLINE_PASSED)
    assert turn.feed(E.GRACE_PASSED) == (*ENDING, C.STOP_INSTANCE)
    assert stands_at(turn, S.INTERRUPTED)


@pytest.mark.parametrize("begin", [dispatching, running, awaiting])
def test_it_is_lost_with_its_instance(begin: object) -> None:
    turn = begin() if callable(begin) else None
    assert isinstance(turn, TurnMachine)
    closing = (C.CLOSE_PERMISSIONS,) if turn.state is S.AWAITING else ()
    assert turn.feed(E.INSTANCE_LOST) == (*closing, *ENDING)
    assert stands_at(turn, S.LOST)


def test_after_a_restart_only_a_turn_that_was_not_taken_up_is_written_again() -> None:
    assert TurnMachine("t", S.DISPATCHING).feed(E.REATTACHED) == (C.WRITE_MESSAGE,)
    assert TurnMachine("t", S.RUNNING).feed(E.REATTACHED) == ()
    assert TurnMachine("t", S.AWAITING).feed(E.REATTACHED) == ()


def test_a_turn_that_the_cli_began_begins_running() -> None:
    turn = TurnMachine("t-2", S.RUNNING)
    assert turn.feed(E.ENDED_WELL) == ENDING


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (S.QUEUED, E.STARTED),
        (S.QUEUED, E.ENDED_WELL),
        (S.DISPATCHING, E.DISPATCHED),
        (S.DISPATCHING, E.PERMISSION_ASKED),
        (S.DISPATCHING, E.SESSION_FAULTED),
        (S.RUNNING, E.DISPATCHED),
        (S.RUNNING, E.PERMISSION_SETTLED),
        (S.SUCCEEDED, E.INTERRUPT_REQUESTED),
        (S.INTERRUPTED, E.GRACE_PASSED),
        (S.LOST, E.ENDED_WELL),
        (S.WITHDRAWN, E.DISPATCHED),
    ],
)
def test_what_cannot_happen_raises(state: S, event: E) -> None:
    turn = TurnMachine("t-1", state)
    with pytest.raises(InvalidTransition):
        turn.feed(event)
    assert turn.state is state


@pytest.mark.parametrize("state", [S.DISPATCHING, S.RUNNING, S.AWAITING])
@pytest.mark.parametrize(
    ("event", "end"),
    [(E.ENDED_WELL, S.SUCCEEDED), (E.ENDED_BADLY, S.FAILED), (E.ENDED_INTERRUPTED, S.INTERRUPTED)],
)
def test_it_ends_as_the_cli_says_wherever_it_stands(state: S, event: E, end: S) -> None:
    turn = TurnMachine("t-1", state)
    closing = (C.CLOSE_PERMISSIONS,) if state is S.AWAITING else ()
    assert turn.feed(event) == (*closing, *ENDING)
    assert stands_at(turn, end)


@pytest.mark.parametrize("state", [S.DISPATCHING, S.RUNNING, S.AWAITING])
def test_past_its_deadline_it_is_interrupted_and_past_the_grace_it_is_over(state: S) -> None:
    turn = TurnMachine("t-1", state)
    closing = (C.CLOSE_PERMISSIONS,) if state is S.AWAITING else ()
    assert turn.feed(E.DEADLINE_PASSED) == (C.RECORD, C.SEND_INTERRUPT, C.ARM_GRACE)
    assert stands_at(turn, state)
    assert turn.feed(E.GRACE_PASSED) == (*closing, *ENDING, C.STOP_INSTANCE)
    assert stands_at(turn, S.INTERRUPTED)


@pytest.mark.parametrize("state", [S.DISPATCHING, S.RUNNING, S.AWAITING])
def test_a_restart_of_the_server_does_not_move_it(state: S) -> None:
    turn = TurnMachine("t-1", state)
    turn.feed(E.REATTACHED)
    assert stands_at(turn, state)


@pytest.mark.parametrize("state", [S.RUNNING, S.AWAITING])
def test_told_twice_that_it_has_begun(state: S) -> None:
    turn = TurnMachine("t-1", state)
    assert turn.feed(E.STARTED) == ()
    assert stands_at(turn, state)
