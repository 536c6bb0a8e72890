"""The checker of traces is strict: what no table has is found, and what a table has is not."""

from __future__ import annotations

import pytest

from pool.lifecycle.session import SESSION_TABLE, SessionMachine
from pool.lifecycle.turn import TURN_TABLE, TurnCommand, TurnMachine
from pool.model import TurnState
from tests.traces import Frame, illegal_steps, told_after


def turns(*states: str, origin: str = "user") -> list[Frame]:
    return [{"type": "turn", "turn_id": "t", "state": state, "origin": origin} for state in states]


def sessions(*states: str) -> list[Frame]:
    return [{"type": "session", "state": state} for state in states]


def approvals(*kinds: str) -> list[Frame]:
    return [{"type": f"permission_{kind}", "request_id": "r"} for kind in kinds]


@pytest.mark.parametrize(
    "frames",
    [
        turns("queued", "running", "succeeded"),
        turns("queued", "withdrawn"),
        turns("queued", "lost"),
        turns("running", "interrupted", origin="cli"),
        sessions("waking", "waking", "live", "parked", "waking", "cooling", "parked", "archived", "parked"),
        sessions("live", "faulted", "parked"),
        approvals("request", "resolved", "request", "resolved"),
    ],
)
def test_what_the_tables_have_is_legal(frames: list[Frame]) -> None:
    assert illegal_steps(frames, restarts=False) == []


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (turns("queued", "succeeded", "running"), "running after succeeded"),
        (turns("queued", "running", "succeeded", "lost"), "lost after succeeded"),
        (turns("queued", "running", "withdrawn"), "withdrawn after running"),
        (turns("queued", "running", "queued"), "queued after running"),
        (turns("running"), "begins as running"),
        (turns("succeeded", origin="cli"), "begins as succeeded"),
        (sessions("archived", "live"), "live after archived"),
        (sessions("faulted", "waking"), "waking after faulted"),
        (sessions("parked", "live"), "live after parked"),
        (approvals("request", "resolved", "resolved"), "resolved and not open"),
        (approvals("request", "request"), "asked for twice"),
    ],
)
def test_what_they_do_not_have_is_found(frames: list[Frame], told: str) -> None:
    (problem,) = illegal_steps(frames, restarts=False)
    assert told in problem


def test_a_restart_excuses_what_a_server_finds_and_nothing_else() -> None:
    assert illegal_steps(sessions("parked", "live"), restarts=True) == []
    assert illegal_steps(sessions("live", "waking"), restarts=True) == []
    assert illegal_steps(sessions("archived", "live"), restarts=True)
    assert illegal_steps(turns("queued", "succeeded", "running"), restarts=True)


def test_every_row_of_the_tables_is_legal() -> None:
    for state, rows in TURN_TABLE.rows.items():
        for event in rows:
            machine = TurnMachine("t", state)
            commands = machine.feed(event)
            if TurnCommand.PUBLISH in commands and state in (TurnState.QUEUED, TurnState.RUNNING):
                assert machine.state in told_after(state)
    for one, steps in SESSION_TABLE.rows.items():
        for step in steps:
            session = SessionMachine("s", one)
            session.feed(step)
            assert not illegal_steps(sessions(one.value, session.state.value), restarts=False)
