"""Turns that the CLI begins by itself: background work that ended, a conversation that is resumed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pool.lifecycle.instance import InstanceEvent
from pool.model import TurnId, TurnState
from pool.policy.outcome import outcome_of
from pool.store.base import TurnRecord

if TYPE_CHECKING:
    from pool.runtime.session import Session


def begin_own_turn(session: Session) -> None:
    """The CLI began a turn that nobody asked for."""
    instance = session.instance
    record = TurnRecord(
        turn_id=TurnId(str(uuid.uuid4())),
        key=session.key,
        number=session.next_turn_number,
        state=TurnState.RUNNING,
        origin="cli",
        created_at=session.around.clock.wall(),
        instance_id=instance.id if instance is not None else None,
    )
    session.next_turn_number += 1
    session.turns.begin_by_cli(record)
    if instance is not None and instance.machine.can(InstanceEvent.TURN_STARTED):
        instance.machine.feed(InstanceEvent.TURN_STARTED)


def end_own_turn(session: Session) -> None:
    """The CLI is idle, so no turn is owed: one that got no result of its own was folded into another."""
    turn = session.turns.by_cli
    if turn is not None:
        session.turns.end(turn, turn.outcome or outcome_of(None, cancelled=turn.is_interrupting))
