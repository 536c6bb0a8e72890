"""Stories of a session, and of the places where the three machines meet."""

from __future__ import annotations

import pytest

from pool.errors import InvalidTransition
from pool.lifecycle.instance import InstanceCommand, InstanceEvent, InstanceMachine
from pool.lifecycle.session import SessionCommand as C
from pool.lifecycle.session import SessionEvent as E
from pool.lifecycle.session import SessionMachine
from pool.lifecycle.turn import TurnCommand, TurnEvent, TurnMachine
from pool.model import InstanceState, TurnState
from pool.model import SessionState as S
from tests.pool.lifecycle.standing import stands_at

WAKING = (C.TAKE_SLOT, C.LAUNCH)


def live() -> SessionMachine:
    session = SessionMachine("alice:default")
    assert session.feed(E.TURN_SUBMITTED) == WAKING
    assert stands_at(session, S.WAKING)
    assert session.feed(E.INSTANCE_READY) == (C.DISPATCH_NEXT,)
    assert stands_at(session, S.LIVE)
    return session


def test_a_day_message_idle_parked_message() -> None:
    session = live()
    assert session.feed(E.TURN_SUBMITTED) == (C.DISPATCH_NEXT,)
    assert session.feed(E.INSTANCE_ENDED) == (C.WAKE_IF_QUEUED,)
    assert stands_at(session, S.PARKED)
    assert session.feed(E.TURN_SUBMITTED) == WAKING


def test_messages_and_viewers_while_it_wakes_change_nothing() -> None:
    session = SessionMachine("s")
    assert session.feed(E.VIEWER_ARRIVED) == WAKING
    assert session.feed(E.TURN_SUBMITTED) == ()
    assert session.feed(E.VIEWER_ARRIVED) == ()
    assert stands_at(session, S.WAKING)


def test_no_slot_in_time() -> None:
    session = SessionMachine("s")
    session.feed(E.TURN_SUBMITTED)
    assert session.feed(E.WAKE_REFUSED) == (C.WITHDRAW_QUEUED_TURNS,)
    assert stands_at(session, S.PARKED)


def test_a_crash_then_backoff_then_again() -> None:
    session = live()
    assert session.feed(E.INSTANCE_CRASHED) == (C.ARM_BACKOFF,)
    assert stands_at(session, S.COOLING)
    assert session.feed(E.TURN_SUBMITTED) == ()
    assert stands_at(session, S.COOLING)
    assert session.feed(E.WAKE_DUE) == WAKING
    assert stands_at(session, S.WAKING)


def test_a_crash_and_nobody_waits() -> None:
    session = live()
    session.feed(E.INSTANCE_CRASHED)
    session.feed(E.REST_DUE)
    assert stands_at(session, S.PARKED)


@pytest.mark.parametrize("event", [E.CRASH_LOOP, E.INSTANCE_STUCK])
@pytest.mark.parametrize("state", [S.WAKING, S.LIVE])
def test_faulted_until_a_person_resets_it(state: S, event: E) -> None:
    session = SessionMachine("s", state)
    assert session.feed(event) == (C.FAIL_QUEUED_TURNS, C.ALERT_OPERATOR)
    assert stands_at(session, S.FAULTED)
    assert session.feed(E.VIEWER_ARRIVED) == ()
    assert session.feed(E.INSTANCE_ENDED) == ()  # the stuck one went at last
    assert not session.can(E.TURN_SUBMITTED)
    assert session.feed(E.RESET_REQUESTED) == ()
    assert stands_at(session, S.PARKED)
    assert session.feed(E.TURN_SUBMITTED) == WAKING


@pytest.mark.parametrize("state", [S.PARKED, S.WAKING, S.LIVE, S.COOLING, S.FAULTED])
def test_archiving_ends_it_from_anywhere(state: S) -> None:
    session = SessionMachine("s", state)
    assert session.feed(E.ARCHIVE_REQUESTED) == (C.WITHDRAW_QUEUED_TURNS, C.STOP_INSTANCE)
    assert stands_at(session, S.ARCHIVED)
    assert session.feed(E.INSTANCE_READY) == (C.STOP_INSTANCE,)
    assert session.feed(E.INSTANCE_ENDED) == ()
    assert not session.can(E.TURN_SUBMITTED)
    session.feed(E.RESTORE_REQUESTED)
    assert stands_at(session, S.PARKED)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (S.PARKED, E.INSTANCE_READY),
        (S.PARKED, E.INSTANCE_CRASHED),
        (S.LIVE, E.INSTANCE_READY),
        (S.LIVE, E.WAKE_REFUSED),
        (S.LIVE, E.RESET_REQUESTED),
        (S.COOLING, E.INSTANCE_READY),
        (S.FAULTED, E.WAKE_DUE),
        (S.ARCHIVED, E.RESET_REQUESTED),
    ],
)
def test_what_cannot_happen_raises(state: S, event: E) -> None:
    with pytest.raises(InvalidTransition):
        SessionMachine("s", state).feed(event)


def test_a_crash_is_one_event_told_three_times() -> None:
    session = live()
    instance = InstanceMachine("i", InstanceState.BUSY)
    turn = TurnMachine("t", TurnState.RUNNING)
    assert instance.feed(InstanceEvent.PROCESS_EXITED) == (InstanceCommand.RELEASE_RESOURCES,)
    assert turn.feed(TurnEvent.INSTANCE_LOST) == (TurnCommand.RECORD, TurnCommand.PUBLISH)
    assert session.feed(E.INSTANCE_CRASHED) == (C.ARM_BACKOFF,)
    assert (instance.state, turn.state, session.state) == (InstanceState.EXITED, TurnState.LOST, S.COOLING)


def test_a_drain_lets_the_turn_end_and_keeps_the_message_that_came_meanwhile() -> None:
    session = live()
    instance = InstanceMachine("i", InstanceState.BUSY)
    running, queued = TurnMachine("t-1", TurnState.RUNNING), TurnMachine("t-2")
    instance.feed(InstanceEvent.DRAIN_REQUESTED)
    assert session.feed(E.TURN_SUBMITTED) == (C.DISPATCH_NEXT,)  # not ready: nothing is dispatched
    running.feed(TurnEvent.ENDED_WELL)
    assert instance.feed(InstanceEvent.TURN_ENDED) == (InstanceCommand.START_STOP_LADDER,)
    instance.feed(InstanceEvent.PROCESS_EXITED)
    assert session.feed(E.INSTANCE_ENDED) == (C.WAKE_IF_QUEUED,)
    assert (session.state, queued.state) == (S.PARKED, TurnState.QUEUED)


@pytest.mark.parametrize("state", [S.LIVE, S.COOLING, S.FAULTED, S.ARCHIVED])
def test_a_viewer_changes_nothing_but_a_parked_session(state: S) -> None:
    session = SessionMachine("s", state)
    assert session.feed(E.VIEWER_ARRIVED) == ()
    assert stands_at(session, state)


def test_stopped_while_it_wakes() -> None:
    session = SessionMachine("s", S.WAKING)
    assert session.feed(E.INSTANCE_ENDED) == (C.WAKE_IF_QUEUED,)
    assert stands_at(session, S.PARKED)


def test_a_crash_while_it_wakes() -> None:
    session = SessionMachine("s", S.WAKING)
    assert session.feed(E.INSTANCE_CRASHED) == (C.ARM_BACKOFF,)
    assert stands_at(session, S.COOLING)


def test_a_message_that_came_while_it_cooled_is_looked_for() -> None:
    for event in (E.REST_DUE, E.RESET_REQUESTED):
        session = SessionMachine("s", S.COOLING)
        assert session.feed(event) == (C.WAKE_IF_QUEUED,)
        assert stands_at(session, S.PARKED)


def test_a_reset_of_what_needs_none() -> None:
    session = SessionMachine("s")
    assert session.feed(E.RESET_REQUESTED) == ()
    assert stands_at(session, S.PARKED)


@pytest.mark.parametrize("event", [E.INSTANCE_ENDED, E.INSTANCE_CRASHED, E.CRASH_LOOP, E.INSTANCE_STUCK])
def test_the_late_end_of_its_instance_does_not_mend_a_fault(event: E) -> None:
    session = SessionMachine("s", S.FAULTED)
    assert session.feed(event) == ()
    assert stands_at(session, S.FAULTED)


@pytest.mark.parametrize(
    "event", [E.INSTANCE_ENDED, E.INSTANCE_CRASHED, E.CRASH_LOOP, E.WAKE_REFUSED, E.ARCHIVE_REQUESTED]
)
def test_what_still_happens_to_an_archived_one_changes_nothing(event: E) -> None:
    session = SessionMachine("s", S.ARCHIVED)
    assert session.feed(event) == ()
    assert stands_at(session, S.ARCHIVED)


def test_an_instance_that_outlives_the_archiving_is_told_to_a_person() -> None:
    session = SessionMachine("s", S.ARCHIVED)
    assert session.feed(E.INSTANCE_STUCK) == (C.ALERT_OPERATOR,)
    assert stands_at(session, S.ARCHIVED)
