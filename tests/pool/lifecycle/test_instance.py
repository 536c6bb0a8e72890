"""Stories of an instance, written by hand: a test that is computed from the table agrees with any table."""

from __future__ import annotations

import pytest

from pool.errors import InvalidTransition
from pool.lifecycle.instance import InstanceCommand as C
from pool.lifecycle.instance import InstanceEvent as E
from pool.lifecycle.instance import InstanceMachine
from pool.model import InstanceState as S
from tests.pool.lifecycle.standing import stands_at


def ready() -> InstanceMachine:
    machine = InstanceMachine("i-1")
    assert machine.feed(E.HANDSHAKE_DONE) == (C.ANNOUNCE_READY,)
    assert stands_at(machine, S.READY)
    return machine


def busy() -> InstanceMachine:
    machine = ready()
    assert machine.feed(E.TURN_STARTED) == ()
    assert stands_at(machine, S.BUSY)
    return machine


def test_a_good_life_two_turns_then_parked() -> None:
    machine = busy()
    assert machine.feed(E.TURN_ENDED) == (C.DISPATCH_NEXT,)
    assert stands_at(machine, S.READY)
    machine.feed(E.TURN_STARTED)
    assert stands_at(machine, S.BUSY)
    machine.feed(E.TURN_ENDED)
    assert machine.feed(E.STOP_REQUESTED) == (C.START_STOP_LADDER,)
    assert stands_at(machine, S.STOPPING)
    assert machine.feed(E.PROCESS_EXITED) == (C.RELEASE_RESOURCES,)
    assert stands_at(machine, S.EXITED)
    assert machine.has_ended


def test_it_dies_at_once() -> None:
    machine = InstanceMachine("i-1")
    assert machine.feed(E.PROCESS_EXITED) == (C.RELEASE_RESOURCES,)
    with pytest.raises(InvalidTransition):
        machine.feed(E.PROCESS_EXITED)


def test_it_never_becomes_ready_in_time() -> None:
    machine = InstanceMachine("i-1")
    assert machine.feed(E.DEADLINE_PASSED) == (C.START_STOP_LADDER,)
    assert machine.feed(E.HANDSHAKE_DONE) == ()  # too late
    assert stands_at(machine, S.STOPPING)


def test_it_crashes_in_a_turn() -> None:
    machine = busy()
    assert machine.feed(E.PROCESS_EXITED) == (C.RELEASE_RESOURCES,)
    assert stands_at(machine, S.EXITED)


def test_a_busy_one_is_interrupted_before_the_ladder() -> None:
    machine = busy()
    assert machine.feed(E.STOP_REQUESTED) == (C.INTERRUPT, C.START_STOP_LADDER)
    assert machine.feed(E.TURN_ENDED) == ()
    assert machine.feed(E.STOP_REQUESTED) == ()
    assert stands_at(machine, S.STOPPING)


def test_drained_in_a_turn_it_finishes_and_goes() -> None:
    machine = busy()
    assert machine.feed(E.DRAIN_REQUESTED) == (C.ARM_DRAIN_DEADLINE,)
    assert stands_at(machine, S.DRAINING)
    assert machine.feed(E.DRAIN_REQUESTED) == ()
    assert machine.feed(E.TURN_ENDED) == (C.START_STOP_LADDER,)
    assert stands_at(machine, S.STOPPING)


def test_drained_in_a_turn_that_takes_too_long() -> None:
    machine = busy()
    machine.feed(E.DRAIN_REQUESTED)
    assert machine.feed(E.DEADLINE_PASSED) == (C.INTERRUPT, C.START_STOP_LADDER)
    assert stands_at(machine, S.STOPPING)


def test_drained_in_a_turn_and_then_stopped_by_a_person() -> None:
    machine = busy()
    machine.feed(E.DRAIN_REQUESTED)
    assert machine.feed(E.STOP_REQUESTED) == (C.INTERRUPT, C.START_STOP_LADDER)


@pytest.mark.parametrize("state", [S.STARTING, S.READY])
def test_drained_without_a_turn_it_goes_at_once(state: S) -> None:
    machine = InstanceMachine("i-1", state)
    assert machine.feed(E.DRAIN_REQUESTED) == (C.START_STOP_LADDER,)
    assert stands_at(machine, S.STOPPING)


def test_it_outlives_kill_a_person_tries_again_and_at_last_it_goes() -> None:
    machine = InstanceMachine("i-1", S.STOPPING)
    assert machine.feed(E.LADDER_EXHAUSTED) == (C.ALERT_OPERATOR,)
    assert stands_at(machine, S.STUCK)
    assert machine.feed(E.TURN_ENDED) == ()
    assert machine.feed(E.STOP_REQUESTED) == (C.START_STOP_LADDER,)
    assert machine.feed(E.LADDER_EXHAUSTED) == (C.ALERT_OPERATOR,)
    assert machine.feed(E.PROCESS_EXITED) == (C.RELEASE_RESOURCES,)
    assert stands_at(machine, S.EXITED)


def test_a_resumed_cli_prints_a_turn_before_it_answers() -> None:
    machine = InstanceMachine("i-1")
    assert machine.feed(E.TURN_STARTED) == ()
    assert machine.feed(E.TURN_ENDED) == ()
    assert stands_at(machine, S.STARTING)
    machine.feed(E.HANDSHAKE_DONE)
    assert stands_at(machine, S.READY)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (S.READY, E.HANDSHAKE_DONE),
        (S.READY, E.TURN_ENDED),
        (S.READY, E.LADDER_EXHAUSTED),
        (S.BUSY, E.TURN_STARTED),
        (S.BUSY, E.DEADLINE_PASSED),
        (S.STARTING, E.LADDER_EXHAUSTED),
        (S.EXITED, E.STOP_REQUESTED),
        (S.EXITED, E.HANDSHAKE_DONE),
    ],
)
def test_what_cannot_happen_raises(state: S, event: E) -> None:
    machine = InstanceMachine("i-1", state)
    assert not machine.can(event)
    with pytest.raises(InvalidTransition):
        machine.feed(event)


@pytest.mark.parametrize("state", [S.STARTING, S.READY, S.BUSY, S.DRAINING, S.STOPPING, S.STUCK])
def test_it_may_exit_from_anywhere_and_gives_back_what_it_held(state: S) -> None:
    machine = InstanceMachine("i-1", state)
    assert machine.feed(E.PROCESS_EXITED) == (C.RELEASE_RESOURCES,)
    assert stands_at(machine, S.EXITED)


def test_stopped_before_it_was_ready() -> None:
    machine = InstanceMachine("i-1")
    assert machine.feed(E.STOP_REQUESTED) == (C.START_STOP_LADDER,)
    assert stands_at(machine, S.STOPPING)


def test_stopped_by_a_person_while_it_drains() -> None:
    machine = InstanceMachine("i-1", S.DRAINING)
    machine.feed(E.STOP_REQUESTED)
    assert stands_at(machine, S.STOPPING)


@pytest.mark.parametrize("state", [S.STOPPING, S.STUCK])
@pytest.mark.parametrize("event", [E.HANDSHAKE_DONE, E.TURN_STARTED, E.TURN_ENDED, E.DRAIN_REQUESTED])
def test_what_it_says_on_the_way_out_changes_nothing(state: S, event: E) -> None:
    machine = InstanceMachine("i-1", state)
    assert machine.feed(event) == ()
    assert stands_at(machine, state)
