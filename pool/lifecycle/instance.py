"""One incarnation of the CLI, from the intent to spawn to the reaped tree.

Rule 1: an instance never restarts. A new process is a new instance with a new
id, so a late callback can always prove which process it speaks of, and there
are no side flags ("stopping but to be restarted") as in supervisors that keep
one object over many lives.

Rule 2: what it holds (slot, lease, workspace lock, pipes) goes back on
``process_exited``, here and nowhere else; never on "we have sent KILL". A
process in uninterruptible sleep outlives KILL: that state has a name,
``stuck``. Its slot and workspace stay taken, a person is told, and a late
exit is still welcome, from there as from anywhere.

Rule 3: ``turn_started`` is fed when the first open turn begins (dispatched by
us, or begun by the CLI itself), ``turn_ended`` when the last open one has
ended. The CLI folds messages and begins turns of its own, so two may be open
for a moment. Until the handshake is done turns are the CLI's affair: a CLI
that resumes after a crash prints one before it answers. Whoever feeds
``handshake_done`` while a turn is open feeds ``turn_started`` right after.

Rule 4: the way out is one. Every wish to end it, whatever the reason, leads
to ``stopping``, whose ladder (interrupt when busy, end of input, TERM to the
CLI, KILL of the tree, a grace each) is climbed once. A draining instance
finishes its turn first, until its deadline.

In ``stopping`` and ``stuck`` the process may still speak: what it says changes
nothing.
"""

from __future__ import annotations

from enum import Enum

from pool.lifecycle.table import Machine, Table, to
from pool.model import InstanceState


class InstanceEvent(Enum):
    """What can happen to an instance."""

    HANDSHAKE_DONE = "handshake_done"
    TURN_STARTED = "turn_started"
    TURN_ENDED = "turn_ended"
    DRAIN_REQUESTED = "drain_requested"
    STOP_REQUESTED = "stop_requested"
    DEADLINE_PASSED = "deadline_passed"
    LADDER_EXHAUSTED = "ladder_exhausted"
    PROCESS_EXITED = "process_exited"


class InstanceCommand(Enum):
    """What is then to be done. Storing a changed state comes first and is not listed."""

    ANNOUNCE_READY = "announce_ready"
    """Feed ``instance_ready`` to the session; wake who waits for this instance."""
    DISPATCH_NEXT = "dispatch_next"
    """Give it the session's next queued turn, if any; else its idle time begins."""
    ARM_DRAIN_DEADLINE = "arm_drain_deadline"
    """Feed ``deadline_passed`` when the drain's time is over."""
    INTERRUPT = "interrupt"
    """First rung, for a busy one: interrupt with ``cancel_queued``, wait for the result a grace long."""
    START_STOP_LADDER = "start_stop_ladder"
    """Climb the ladder from end of input on; feed ``ladder_exhausted`` if nothing helps."""
    ALERT_OPERATOR = "alert_operator"
    """Tell a person: a process outlived KILL."""
    RELEASE_RESOURCES = "release_resources"
    """Give back slot, lease, workspace lock and pipes."""


_S, _E, _C = InstanceState, InstanceEvent, InstanceCommand

_STOP = to(_S.STOPPING, _C.START_STOP_LADDER)
_STOP_BUSY = to(_S.STOPPING, _C.INTERRUPT, _C.START_STOP_LADDER)
_EXIT = to(_S.EXITED, _C.RELEASE_RESOURCES)

INSTANCE_TABLE: Table[InstanceState, InstanceEvent, InstanceCommand] = Table(
    name="instance",
    initial=_S.STARTING,
    events=InstanceEvent,
    commands=InstanceCommand,
    rows={
        _S.STARTING: {
            _E.HANDSHAKE_DONE: to(_S.READY, _C.ANNOUNCE_READY),
            _E.TURN_STARTED: to(_S.STARTING),
            _E.TURN_ENDED: to(_S.STARTING),
            _E.DRAIN_REQUESTED: _STOP,
            _E.STOP_REQUESTED: _STOP,
            _E.DEADLINE_PASSED: _STOP,
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.READY: {
            _E.TURN_STARTED: to(_S.BUSY),
            _E.DRAIN_REQUESTED: _STOP,
            _E.STOP_REQUESTED: _STOP,
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.BUSY: {
            _E.TURN_ENDED: to(_S.READY, _C.DISPATCH_NEXT),
            _E.DRAIN_REQUESTED: to(_S.DRAINING, _C.ARM_DRAIN_DEADLINE),
            _E.STOP_REQUESTED: _STOP_BUSY,
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.DRAINING: {
            _E.TURN_ENDED: _STOP,
            _E.DRAIN_REQUESTED: to(_S.DRAINING),
            _E.STOP_REQUESTED: _STOP_BUSY,
            _E.DEADLINE_PASSED: _STOP_BUSY,
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.STOPPING: {
            _E.HANDSHAKE_DONE: to(_S.STOPPING),
            _E.TURN_STARTED: to(_S.STOPPING),
            _E.TURN_ENDED: to(_S.STOPPING),
            _E.DRAIN_REQUESTED: to(_S.STOPPING),
            _E.STOP_REQUESTED: to(_S.STOPPING),
            _E.LADDER_EXHAUSTED: to(_S.STUCK, _C.ALERT_OPERATOR),
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.STUCK: {
            _E.HANDSHAKE_DONE: to(_S.STUCK),
            _E.TURN_STARTED: to(_S.STUCK),
            _E.TURN_ENDED: to(_S.STUCK),
            _E.DRAIN_REQUESTED: to(_S.STUCK),
            _E.STOP_REQUESTED: _STOP,
            _E.PROCESS_EXITED: _EXIT,
        },
        _S.EXITED: {},
    },
)


class InstanceMachine(Machine[InstanceState, InstanceEvent, InstanceCommand]):
    """Where one instance stands. ``name`` is its id, for the log."""

    def __init__(self, name: str, state: InstanceState = InstanceState.STARTING) -> None:
        super().__init__(INSTANCE_TABLE, name, state)
