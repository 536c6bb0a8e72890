"""Ids, states, cursors and the records that clients see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadCursor
from pool.model import BEGINNING, Cursor, ExitStatus, Reason, SessionId, SessionKey, TurnState, UserId

cursors = st.builds(Cursor, st.integers(0, 10**9 - 1), st.integers(0, 10**18 - 1), st.integers(0, 10**9 - 1))


@given(cursors)
def test_a_cursor_comes_back_as_it_went(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text(max_size=30))
def test_any_text_is_a_cursor_or_a_bad_cursor(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except BadCursor:
        return
    assert cursor == BEGINNING or str(cursor).count(".") == 2


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "00",
        "1.2",
        "1.2.3.4",
        "-1.2.3",
        "1.2.x",
        " 1.2.3",
        "1.2.3\n",
        "१.२.३",
        "9" * 10 + ".0.0",
        0,
        None,
        b"0",
    ],
    ids=repr,
)
def test_what_is_no_cursor_is_refused(value: Any) -> None:
    with pytest.raises(BadCursor):
        Cursor.parse(value)


def test_zero_is_the_beginning() -> None:
    assert Cursor.parse("0") == BEGINNING == Cursor.parse("0.0.0")


@given(cursors)
def test_cursors_are_ordered_by_instance_then_place_then_what_the_server_added(cursor: Cursor) -> None:
    assert cursor >= BEGINNING
    assert cursor < Cursor(cursor.ordinal, cursor.offset, cursor.k + 1)
    assert Cursor(cursor.ordinal, cursor.offset, cursor.k + 1) < Cursor(cursor.ordinal, cursor.offset + 1, 0)
    assert Cursor(cursor.ordinal, cursor.offset + 1, 0) < Cursor(cursor.ordinal + 1, 0, 0)


def test_a_turn_has_five_ends() -> None:
    ends = {state.value for state in TurnState if state.is_terminal}
    assert ends == {"succeeded", "failed", "interrupted", "lost", "withdrawn"}


def test_a_session_is_named_within_its_user() -> None:
    assert str(SessionKey(UserId("alice"), SessionId("default"))) == "alice:default"


def test_an_exit_is_told_to_people() -> None:
    assert ExitStatus(signal="SIGKILL").describe() == "was ended by SIGKILL"
    assert ExitStatus(code=0).describe() == "exited with code 0"
    assert "not known" in ExitStatus().describe()


def test_a_reason_on_the_wire_has_only_what_is_known() -> None:
    assert Reason("crash", "It crashed.").as_dict() == {"code": "crash", "message": "It crashed."}
    assert Reason("c", "m", exit_code=0).as_dict() == {"code": "c", "message": "m", "exit_code": 0}
    assert Reason("c", "m", signal="SIGKILL").as_dict() == {"code": "c", "message": "m", "signal": "SIGKILL"}
