"""A session: a durable conversation that outlives its instances.

Rule 1: a session has at most one instance that is not exited. It is
``waking`` while one starts and ``live`` while one is there, also while that
one is being stopped; only its end leads on. Events of an instance are fed for
the session's own instance only, never for a predecessor.

Rule 2: the end of an instance is one of three events. ``instance_ended``: we
wanted it (idle, evicted, drained, restarted). ``instance_crashed``: we did
not; wait, then try again. ``crash_loop`` stands in its place when
``pool.policy.backoff`` says that trying again is pointless: ``faulted``, until
a person resets it. ``instance_stuck`` faults it at once: a second writer on
the same workspace must not begin. So does ``restore_failed``: what an earlier
server left of it could not be taken over.

Rule 3: on the way to ``parked`` messages may have come in for the instance
that was just leaving. ``WAKE_IF_QUEUED`` looks, so that nobody has to ask
again.

Rule 4: a viewer wakes a session only for comfort. The runtime feeds
``viewer_arrived`` to a parked session only if a slot is free and this viewer
has not woken it in this idle period; elsewhere it changes nothing. A message
has a right to wake: ``turn_submitted``.

Rule 5: who archives a session ends it: its queued turns are withdrawn and its
instance is stopped. That instance may outlive the archiving by seconds, and a
stuck one for ever: a launch waits until it has exited (rule 1). A message for
a ``faulted`` or ``archived`` session has no row: the door resets or restores
the session first, or refuses.
"""

from __future__ import annotations

from enum import Enum

from pool.lifecycle.table import Machine, Table, to
from pool.model import SessionState


class SessionEvent(Enum):
    """What can happen to a session."""

    TURN_SUBMITTED = "turn_submitted"
    VIEWER_ARRIVED = "viewer_arrived"
    INSTANCE_READY = "instance_ready"
    INSTANCE_ENDED = "instance_ended"
    INSTANCE_CRASHED = "instance_crashed"
    CRASH_LOOP = "crash_loop"
    INSTANCE_STUCK = "instance_stuck"
    RESTORE_FAILED = "restore_failed"
    WAKE_REFUSED = "wake_refused"
    WAKE_DUE = "wake_due"
    REST_DUE = "rest_due"
    RESET_REQUESTED = "reset_requested"
    ARCHIVE_REQUESTED = "archive_requested"
    RESTORE_REQUESTED = "restore_requested"


class SessionCommand(Enum):
    """What is then to be done. Storing and publishing a changed state comes first and is not listed."""

    TAKE_SLOT = "take_slot"
    """Ask admission for a slot, waiting in line; feed ``wake_refused`` if there is none in time."""
    LAUNCH = "launch"
    """Start an instance in that slot, resuming the conversation if there is one."""
    DISPATCH_NEXT = "dispatch_next"
    """If the instance is ready, give it the next queued turn."""
    WAKE_IF_QUEUED = "wake_if_queued"
    """Feed ``turn_submitted`` if turns are queued and the pool admits work."""
    ARM_BACKOFF = "arm_backoff"
    """After the crash delay feed ``wake_due`` if turns are queued, else ``rest_due``."""
    FAIL_QUEUED_TURNS = "fail_queued_turns"
    """Feed ``session_faulted`` to every queued turn."""
    WITHDRAW_QUEUED_TURNS = "withdraw_queued_turns"
    """Feed ``deadline_passed`` or ``interrupt_requested`` to every queued turn."""
    STOP_INSTANCE = "stop_instance"
    """Feed ``stop_requested`` to the instance, if there is one."""
    ALERT_OPERATOR = "alert_operator"
    """Tell a person."""


_S, _E, _C = SessionState, SessionEvent, SessionCommand

_WAKE = to(_S.WAKING, _C.TAKE_SLOT, _C.LAUNCH)
_PARK = to(_S.PARKED, _C.WAKE_IF_QUEUED)
_COOL = to(_S.COOLING, _C.ARM_BACKOFF)
_FAULT = to(_S.FAULTED, _C.FAIL_QUEUED_TURNS, _C.ALERT_OPERATOR)
_ARCHIVE = to(_S.ARCHIVED, _C.WITHDRAW_QUEUED_TURNS, _C.STOP_INSTANCE)

SESSION_TABLE: Table[SessionState, SessionEvent, SessionCommand] = Table(
    name="session",
    initial=_S.PARKED,
    events=SessionEvent,
    commands=SessionCommand,
    rows={
        _S.PARKED: {
            _E.TURN_SUBMITTED: _WAKE,
            _E.VIEWER_ARRIVED: _WAKE,
            _E.RESTORE_FAILED: _FAULT,
            _E.RESET_REQUESTED: to(_S.PARKED),
            _E.ARCHIVE_REQUESTED: _ARCHIVE,
        },
        _S.WAKING: {
            _E.TURN_SUBMITTED: to(_S.WAKING),
            _E.VIEWER_ARRIVED: to(_S.WAKING),
            _E.INSTANCE_READY: to(_S.LIVE, _C.DISPATCH_NEXT),
            _E.INSTANCE_ENDED: _PARK,
            _E.INSTANCE_CRASHED: _COOL,
            _E.CRASH_LOOP: _FAULT,
            _E.INSTANCE_STUCK: _FAULT,
            _E.RESTORE_FAILED: _FAULT,
            _E.WAKE_REFUSED: to(_S.PARKED, _C.WITHDRAW_QUEUED_TURNS),
            _E.ARCHIVE_REQUESTED: _ARCHIVE,
        },
        _S.LIVE: {
            _E.TURN_SUBMITTED: to(_S.LIVE, _C.DISPATCH_NEXT),
            _E.VIEWER_ARRIVED: to(_S.LIVE),
            _E.INSTANCE_ENDED: _PARK,
            _E.INSTANCE_CRASHED: _COOL,
            _E.CRASH_LOOP: _FAULT,
            _E.INSTANCE_STUCK: _FAULT,
            _E.RESTORE_FAILED: _FAULT,
            _E.ARCHIVE_REQUESTED: _ARCHIVE,
        },
        _S.COOLING: {
            _E.TURN_SUBMITTED: to(_S.COOLING),
            _E.VIEWER_ARRIVED: to(_S.COOLING),
            _E.WAKE_DUE: _WAKE,
            _E.REST_DUE: _PARK,
            _E.RESET_REQUESTED: _PARK,
            _E.ARCHIVE_REQUESTED: _ARCHIVE,
        },
        _S.FAULTED: {
            _E.VIEWER_ARRIVED: to(_S.FAULTED),
            _E.INSTANCE_ENDED: to(_S.FAULTED),
            _E.INSTANCE_CRASHED: to(_S.FAULTED),
            _E.CRASH_LOOP: to(_S.FAULTED),
            _E.INSTANCE_STUCK: to(_S.FAULTED),
            _E.RESTORE_FAILED: to(_S.FAULTED),
            _E.RESET_REQUESTED: to(_S.PARKED),
            _E.ARCHIVE_REQUESTED: _ARCHIVE,
        },
        _S.ARCHIVED: {
            _E.VIEWER_ARRIVED: to(_S.ARCHIVED),
            _E.INSTANCE_READY: to(_S.ARCHIVED, _C.STOP_INSTANCE),
            _E.INSTANCE_ENDED: to(_S.ARCHIVED),
            _E.INSTANCE_CRASHED: to(_S.ARCHIVED),
            _E.CRASH_LOOP: to(_S.ARCHIVED),
            _E.INSTANCE_STUCK: to(_S.ARCHIVED, _C.ALERT_OPERATOR),
            _E.RESTORE_FAILED: to(_S.ARCHIVED, _C.ALERT_OPERATOR),
            _E.WAKE_REFUSED: to(_S.ARCHIVED),
            _E.ARCHIVE_REQUESTED: to(_S.ARCHIVED),
            _E.RESTORE_REQUESTED: to(_S.PARKED),
        },
    },
)


class SessionMachine(Machine[SessionState, SessionEvent, SessionCommand]):
    """Where one session stands. ``name`` is its id, for the log."""

    def __init__(self, name: str, state: SessionState = SessionState.PARKED) -> None:
        super().__init__(SESSION_TABLE, name, state)
