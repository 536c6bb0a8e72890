"""One turn: a message given to a session and all until the frame that ends it.

Rule 1: a turn ends once. Its five ends have no rows. An end is stored, then
published; ``RECORD`` stands before ``PUBLISH`` in every row.

Rule 2: ``dispatching`` is stored before the message is written, so whatever
is killed in between, at most one instance can ever have seen it. From there
on the turn belongs to that instance: it is written again only to the same one
(``reattached``; the CLI ignores a repeated uuid) and is ``lost`` with it. A
turn that is still ``queued`` was seen by nobody and outlives any crash.

Rule 3: "is it being interrupted?" is a fact about a turn, not a place where it
stands: an interrupted turn may still succeed when its result was on the way.
The wish is stored (``RECORD``), sent, and given a grace; when the CLI does not
end the turn within it, the instance is stopped and the turn is interrupted.
Why (user, deadline, drain) is a field of the turn. An interrupt ends queued
turns as ``withdrawn``: no other state can become that.

Rule 4: the outcome is decided in ``pool.policy.outcome`` from the last result
before the CLI says ``completed`` or ``cancelled`` of the message's uuid; here
it arrives as one of three events. A turn whose session is faulted can not run:
it has failed, with the fault as its reason.

Rule 5: ``awaiting`` means that at least one approval is open.
``permission_settled`` is fed when the last one has closed. The set of open
approvals is data of the runtime; every way out of ``awaiting`` that ends the
turn closes what is left in it.

A turn that the CLI begins by itself has no message: its machine begins at
``running``.
"""

from __future__ import annotations

from enum import Enum

from pool.lifecycle.table import Machine, Table, to
from pool.model import TurnState


class TurnEvent(Enum):
    """What can happen to a turn."""

    DISPATCHED = "dispatched"
    STARTED = "started"
    PERMISSION_ASKED = "permission_asked"
    PERMISSION_SETTLED = "permission_settled"
    ENDED_WELL = "ended_well"
    ENDED_BADLY = "ended_badly"
    ENDED_INTERRUPTED = "ended_interrupted"
    INTERRUPT_REQUESTED = "interrupt_requested"
    DEADLINE_PASSED = "deadline_passed"
    GRACE_PASSED = "grace_passed"
    REATTACHED = "reattached"
    INSTANCE_LOST = "instance_lost"
    SESSION_FAULTED = "session_faulted"


class TurnCommand(Enum):
    """What is then to be done, in this order."""

    CLOSE_PERMISSIONS = "close_permissions"
    """Withdraw the approvals that are still open, for every viewer."""
    RECORD = "record"
    """Store the turn, its new facts and all durable frames before it."""
    PUBLISH = "publish"
    """Tell the clients the new state."""
    WRITE_MESSAGE = "write_message"
    """Write the message's line to the turn's own instance."""
    SEND_INTERRUPT = "send_interrupt"
    """Ask the CLI to end the turn, queued messages included."""
    ARM_GRACE = "arm_grace"
    """Feed ``grace_passed`` if the turn has not ended by then."""
    STOP_INSTANCE = "stop_instance"
    """Feed ``stop_requested`` to the instance: it did not listen."""


_S, _E, _C = TurnState, TurnEvent, TurnCommand

_INTERRUPTING = (_C.RECORD, _C.SEND_INTERRUPT, _C.ARM_GRACE)
_ENDING = (_C.RECORD, _C.PUBLISH)
_ENDING_ASKED = (_C.CLOSE_PERMISSIONS, _C.RECORD, _C.PUBLISH)

TURN_TABLE: Table[TurnState, TurnEvent, TurnCommand] = Table(
    name="turn",
    initial=_S.QUEUED,
    events=TurnEvent,
    commands=TurnCommand,
    rows={
        _S.QUEUED: {
            _E.DISPATCHED: to(_S.DISPATCHING, _C.RECORD, _C.WRITE_MESSAGE),
            _E.INTERRUPT_REQUESTED: to(_S.WITHDRAWN, *_ENDING),
            _E.DEADLINE_PASSED: to(_S.WITHDRAWN, *_ENDING),
            _E.REATTACHED: to(_S.QUEUED),
            _E.INSTANCE_LOST: to(_S.QUEUED),
            _E.SESSION_FAULTED: to(_S.FAILED, *_ENDING),
        },
        _S.DISPATCHING: {
            _E.STARTED: to(_S.RUNNING, _C.RECORD, _C.PUBLISH),
            _E.ENDED_WELL: to(_S.SUCCEEDED, *_ENDING),
            _E.ENDED_BADLY: to(_S.FAILED, *_ENDING),
            _E.ENDED_INTERRUPTED: to(_S.INTERRUPTED, *_ENDING),
            _E.INTERRUPT_REQUESTED: to(_S.DISPATCHING, *_INTERRUPTING),
            _E.DEADLINE_PASSED: to(_S.DISPATCHING, *_INTERRUPTING),
            _E.GRACE_PASSED: to(_S.INTERRUPTED, *_ENDING, _C.STOP_INSTANCE),
            _E.REATTACHED: to(_S.DISPATCHING, _C.WRITE_MESSAGE),
            _E.INSTANCE_LOST: to(_S.LOST, *_ENDING),
        },
        _S.RUNNING: {
            _E.STARTED: to(_S.RUNNING),
            _E.PERMISSION_ASKED: to(_S.AWAITING, _C.RECORD),
            _E.ENDED_WELL: to(_S.SUCCEEDED, *_ENDING),
            _E.ENDED_BADLY: to(_S.FAILED, *_ENDING),
            _E.ENDED_INTERRUPTED: to(_S.INTERRUPTED, *_ENDING),
            _E.INTERRUPT_REQUESTED: to(_S.RUNNING, *_INTERRUPTING),
            _E.DEADLINE_PASSED: to(_S.RUNNING, *_INTERRUPTING),
            _E.GRACE_PASSED: to(_S.INTERRUPTED, *_ENDING, _C.STOP_INSTANCE),
            _E.REATTACHED: to(_S.RUNNING),
            _E.INSTANCE_LOST: to(_S.LOST, *_ENDING),
        },
        _S.AWAITING: {
            _E.STARTED: to(_S.AWAITING),
            _E.PERMISSION_ASKED: to(_S.AWAITING),
            _E.PERMISSION_SETTLED: to(_S.RUNNING, _C.RECORD),
            _E.ENDED_WELL: to(_S.SUCCEEDED, *_ENDING_ASKED),
            _E.ENDED_BADLY: to(_S.FAILED, *_ENDING_ASKED),
            _E.ENDED_INTERRUPTED: to(_S.INTERRUPTED, *_ENDING_ASKED),
            _E.INTERRUPT_REQUESTED: to(_S.AWAITING, *_INTERRUPTING),
            _E.DEADLINE_PASSED: to(_S.AWAITING, *_INTERRUPTING),
            _E.GRACE_PASSED: to(_S.INTERRUPTED, *_ENDING_ASKED, _C.STOP_INSTANCE),
            _E.REATTACHED: to(_S.AWAITING),
            _E.INSTANCE_LOST: to(_S.LOST, *_ENDING_ASKED),
        },
        _S.SUCCEEDED: {},
        _S.FAILED: {},
        _S.INTERRUPTED: {},
        _S.LOST: {},
        _S.WITHDRAWN: {},
    },
)


class TurnMachine(Machine[TurnState, TurnEvent, TurnCommand]):
    """Where one turn stands. ``name`` is its id, for the log."""

    def __init__(self, name: str, state: TurnState = TurnState.QUEUED) -> None:
        super().__init__(TURN_TABLE, name, state)
