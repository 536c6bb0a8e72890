"""What holds of all three tables: totality, and every walk over them."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import InvalidTransition
from pool.lifecycle.instance import INSTANCE_TABLE, InstanceCommand
from pool.lifecycle.session import SESSION_TABLE, SessionCommand
from pool.lifecycle.table import Machine, Table
from pool.lifecycle.turn import TURN_TABLE, TurnCommand, TurnEvent
from pool.model import InstanceState, SessionState, TurnState

AnyTable = Table[Any, Any, Any]
TABLES: list[tuple[AnyTable, type[Enum]]] = [
    (INSTANCE_TABLE, InstanceState),
    (TURN_TABLE, TurnState),
    (SESSION_TABLE, SessionState),
]
each_table = pytest.mark.parametrize(("table", "states"), TABLES, ids=[table.name for table, _ in TABLES])


@each_table
def test_every_state_and_event_has_a_row_or_raises(table: AnyTable, states: type[Enum]) -> None:
    assert set(table.rows) == set(states)
    for state in states:
        for event in table.events:
            machine = Machine(table, "x", state)
            if machine.can(event):
                expected, commands = table.rows[state][event]
                assert machine.feed(event) == commands
                assert machine.state is expected
            else:
                with pytest.raises(InvalidTransition):
                    machine.feed(event)
                assert machine.state is state


@each_table
def test_every_event_and_command_is_used(table: AnyTable, states: type[Enum]) -> None:
    used_events = {event for row in table.rows.values() for event in row}
    used_commands = {c for row in table.rows.values() for _, commands in row.values() for c in commands}
    assert used_events == set(table.events.__members__.values())
    assert used_commands == set(table.commands.__members__.values())


@each_table
def test_every_state_can_be_reached_from_the_beginning(table: AnyTable, states: type[Enum]) -> None:
    assert _reachable(table, table.initial) == set(states)


@each_table
def test_every_state_leads_to_an_end_or_back_to_the_beginning(table: AnyTable, states: type[Enum]) -> None:
    for state in states:
        reachable = _reachable(table, state)
        assert table.initial in reachable or any(not table.rows[end] for end in reachable)


def _reachable(table: AnyTable, start: Enum) -> set[Enum]:
    seen, front = {start}, [start]
    while front:
        for target, _ in table.rows[front.pop()].values():
            if target not in seen:
                seen.add(target)
                front.append(target)
    return seen


def walk(
    table: AnyTable, choices: st.DataObject, steps: int = 30
) -> list[tuple[Enum, Enum, Enum, tuple[Enum, ...]]]:
    """A random walk along rows: (state, event, next state, commands) of each step."""
    machine = Machine(table, "walker")
    path = []
    for _ in range(steps):
        possible = list(table.rows[machine.state])
        if not possible:
            break
        state, event = machine.state, choices.draw(st.sampled_from(possible))
        commands = machine.feed(event)
        path.append((state, event, machine.state, commands))
    return path


@given(st.data())
def test_an_instance_releases_once_and_at_its_exit_only(choices: st.DataObject) -> None:
    path = walk(INSTANCE_TABLE, choices)
    released = [state for _, _, state, commands in path if InstanceCommand.RELEASE_RESOURCES in commands]
    exited = [state for _, _, state, _ in path if state is InstanceState.EXITED]
    assert released == exited
    assert len(exited) <= 1


@given(st.data())
def test_an_instance_climbs_one_ladder_at_a_time(choices: st.DataObject) -> None:
    climbing = False
    for _, _, state, commands in walk(INSTANCE_TABLE, choices):
        if InstanceCommand.START_STOP_LADDER in commands:
            assert not climbing
        climbing = state is InstanceState.STOPPING
        if InstanceCommand.INTERRUPT in commands:
            assert commands.index(InstanceCommand.INTERRUPT) < commands.index(
                InstanceCommand.START_STOP_LADDER
            )


@given(st.data())
def test_an_instance_that_is_leaving_never_comes_back(choices: st.DataObject) -> None:
    leaving = {InstanceState.STOPPING, InstanceState.STUCK, InstanceState.EXITED}
    left = False
    for _, _, state, _ in walk(INSTANCE_TABLE, choices):
        assert not left or state in leaving
        left = left or state in leaving


@given(st.data())
def test_a_turn_ends_once_is_stored_before_it_is_published_and_written_to_one_instance(
    choices: st.DataObject,
) -> None:
    path = walk(TURN_TABLE, choices)
    ends = [commands for _, _, state, commands in path if isinstance(state, TurnState) and state.is_terminal]
    assert len(ends) <= 1
    assert sum(event is TurnEvent.DISPATCHED for _, event, _, _ in path) <= 1
    for state, _, target, commands in path:
        if TurnCommand.PUBLISH in commands:
            assert commands.index(TurnCommand.RECORD) < commands.index(TurnCommand.PUBLISH)
        if TurnCommand.WRITE_MESSAGE in commands:
            assert target is TurnState.DISPATCHING
        if target is TurnState.WITHDRAWN:
            assert state is TurnState.QUEUED


@given(st.data())
def test_no_approval_stays_open_after_its_turn(choices: st.DataObject) -> None:
    for state, _, target, commands in walk(TURN_TABLE, choices):
        ending = isinstance(target, TurnState) and target.is_terminal
        if state is TurnState.AWAITING and ending:
            assert commands[0] is TurnCommand.CLOSE_PERMISSIONS


@given(st.data())
def test_a_session_launches_only_on_its_way_to_waking_with_a_slot_taken_first(choices: st.DataObject) -> None:
    for state, _, target, commands in walk(SESSION_TABLE, choices):
        if SessionCommand.LAUNCH in commands:
            assert commands.index(SessionCommand.TAKE_SLOT) < commands.index(SessionCommand.LAUNCH)
            assert state in (SessionState.PARKED, SessionState.COOLING)
            assert target is SessionState.WAKING


@given(st.data())
def test_a_faulted_session_is_only_left_by_a_person(choices: st.DataObject) -> None:
    for state, event, target, _ in walk(SESSION_TABLE, choices):
        if state is SessionState.FAULTED and target is not state:
            assert getattr(event, "value", "") in ("reset_requested", "archive_requested")
