"""Turns that were under way when it came out that the CLI does not tell their end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pool.runtime.session import Session


def end_told_turns(sessions: Iterable[Session]) -> None:
    """End every turn whose result has come, where nothing else will come."""
    for session in sessions:
        turn = session.turns.current
        if turn is None or turn.outcome is None or session.around.features.lifecycle:
            continue
        session.turns.end(turn, turn.outcome)
        session.log.flush()
