"""An offline checker: is every step that a session's log tells of a row of the tables of ``pool/lifecycle``?

The frames are those of one session, in order, from its history or from a
viewer. What a table changes without telling anybody is followed too: only
what can come next, over any number of silent steps, may come next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from pool.lifecycle.session import SESSION_TABLE
from pool.lifecycle.turn import TURN_TABLE, TurnCommand
from pool.model import SessionState, TurnState

Frame = dict[str, Any]

_BEGINNINGS = {"user": TurnState.QUEUED, "cli": TurnState.RUNNING}
# How the next server finds a session that was not put away: settled, or with an instance that still runs.
_FOUND = (SessionState.PARKED, SessionState.WAKING, SessionState.LIVE)


def illegal_steps(frames: Iterable[Frame], *, restarts: bool) -> list[str]:
    """Every step that no table has; none is what is wanted. ``restarts``: servers may have come and gone."""
    problems: list[str] = []
    turns: dict[str, TurnState] = {}
    session: SessionState | None = None
    asked: set[str] = set()
    for frame in frames:
        at = frame.get("cursor")
        if frame["type"] == "turn":
            name, state = frame["turn_id"], TurnState(frame["state"])
            before = turns.get(name)
            if before is None and state is not _BEGINNINGS[frame["origin"]]:
                problems.append(f"{at}: turn {name} of {frame['origin']} begins as {state.value}")
            elif before is not None and state not in told_after(before):
                problems.append(f"{at}: turn {name} is {state.value} after {before.value}")
            turns[name] = state
        elif frame["type"] == "session":
            now = SessionState(frame["state"])
            # A place in line is told without a step.
            if session is not None and now not in (session, *told_of_session(session, restarts)):
                problems.append(f"{at}: the session is {now.value} after {session.value}")
            session = now
        else:
            problems += _of_approvals(frame, asked)
    return problems


def _of_approvals(frame: Frame, asked: set[str]) -> list[str]:
    """Each is asked for, then resolved; ``asked`` are those that are open."""
    kind, name, at = frame["type"], frame.get("request_id", ""), frame.get("cursor")
    if kind == "permission_request":
        is_open = name in asked
        asked.add(name)
        return [f"{at}: approval {name} is asked for twice"] if is_open else []
    if kind == "permission_resolved":
        is_open = name in asked
        asked.discard(name)
        return [] if is_open else [f"{at}: approval {name} is resolved and not open"]
    return []


@cache
def told_after(state: TurnState) -> frozenset[TurnState]:
    """What can be told next of a turn that was told to be in ``state``."""
    told: set[TurnState] = set()
    silent, seen = [state], {state}
    while silent:
        for following, commands in TURN_TABLE.rows[silent.pop()].values():
            if TurnCommand.PUBLISH in commands:
                told.add(following)
            elif following not in seen:
                seen.add(following)
                silent.append(following)
    return frozenset(told)


@cache
def told_of_session(state: SessionState, restarts: bool) -> Sequence[SessionState]:
    """What can be told next of a session: every change of its state is told, but not what a server finds."""
    stands = [state]
    if restarts and state is not SessionState.ARCHIVED:
        stands += _FOUND
    return [following for one in stands for following, _commands in SESSION_TABLE.rows[one].values()]
