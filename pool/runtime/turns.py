"""The turns of one session: the queue, the one that runs, and the one that the CLI began by itself.

Feeding a turn's machine and carrying out what it commands happen in one
synchronous step; what needs waiting is left to the session.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pool.clock import Clock
from pool.lifecycle.turn import TurnCommand, TurnEvent, TurnMachine
from pool.model import InstanceId, Reason, TurnInfo, TurnState
from pool.policy.outcome import Outcome
from pool.runtime.log import SessionLog
from pool.store.base import Operation, PatchTurn, PutTurn, TurnRecord


class Turn:
    """One turn in memory. ``outcome`` is what its last result said, until it has ended."""

    def __init__(self, record: TurnRecord) -> None:
        self.record = record
        self.machine = TurnMachine(record.turn_id, record.state)
        self.outcome: Outcome | None = None
        self.reason: Reason | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self.dispatched_at: float | None = None
        self.has_spoken = False
        pending = (record.reason or {}).get("pending") if not record.state.is_terminal else None
        if isinstance(pending, dict):
            self.outcome = Outcome(
                TurnState(pending["state"]), Reason(**pending["reason"]) if pending["reason"] else None
            )

    @property
    def state(self) -> TurnState:
        """Where the turn stands."""
        return self.machine.state

    @property
    def is_interrupting(self) -> bool:
        """Has somebody asked for its end?"""
        return self.record.interrupt

    def info(self) -> TurnInfo:
        """The turn as clients see it."""
        record = self.record
        return TurnInfo(record.turn_id, self.state, record.origin, record.message_id, self.reason)


class Effects(Protocol):
    """What a turn's machine may ask of the session."""

    def write_message(self, turn: Turn) -> None:
        """Write the message to the CLI once the turn is stored as dispatching."""

    def send_interrupt(self, turn: Turn) -> None:
        """Ask the CLI to end the turn."""

    def close_permissions(self, turn: Turn) -> None:
        """Withdraw its open approvals."""

    def stop_instance(self, reason: str) -> None:
        """End the instance: it did not listen."""

    def knows_instance(self) -> bool:
        """Can the instance be told anything? While it cannot, nobody can say that it did not listen."""

    def turn_ended(self, turn: Turn) -> None:
        """The turn is terminal."""


class Turns:
    """All turns of a session that have not ended."""

    def __init__(
        self,
        log: SessionLog,
        clock: Clock,
        effects: Effects,
        *,
        grace_seconds: float,
        turn_timeout_seconds: float,
    ) -> None:
        self.queued: deque[Turn] = deque()
        self.current: Turn | None = None
        self.by_cli: Turn | None = None
        self._log = log
        self._clock = clock
        self._effects = effects
        self._grace_seconds = grace_seconds
        self._turn_timeout_seconds = turn_timeout_seconds

    @property
    def open_turn(self) -> Turn | None:
        """The turn that the CLI is at, whoever began it; a message that it has not taken up stands behind."""
        if self.current is not None and self.current.state is not TurnState.DISPATCHING:
            return self.current
        return self.by_cli or self.current

    def restore(self, records: Sequence[TurnRecord]) -> None:
        """Take over the turns of an earlier server, by their numbers."""
        for record in sorted(records, key=lambda record: record.number):
            turn = Turn(record)
            if record.state is TurnState.QUEUED:
                self.queued.append(turn)
            elif record.origin == "cli":
                self.by_cli = turn
            else:
                self.current = turn

    def lose_all(self, records: Sequence[TurnRecord], reason: Reason) -> None:
        """Turns of an earlier server that could not be restored: each ends, whatever its row says."""
        self.queued.clear()
        self.current = self.by_cli = None
        for record in records:
            # of one whose state cannot be read nobody knows that it has ended
            was = TurnState.RUNNING if record.state.is_terminal else record.state
            turn = Turn(replace(record, reason=None, state=was))
            is_queued = record.state is TurnState.QUEUED
            self.feed(turn, TurnEvent.SESSION_FAULTED if is_queued else TurnEvent.INSTANCE_LOST, reason)

    def enqueue(
        self,
        record: TurnRecord,
        content: object = None,
        before: Callable[[], None] | None = None,
        *,
        along: Sequence[Operation] = (),
    ) -> Turn:
        """Store and announce a new turn at the end of the queue; every viewer is shown its ``content``.

        ``along`` is stored in the same commit.
        """
        turn = Turn(record)
        self.queued.append(turn)
        frame = self._frame(turn)
        if content is not None:
            frame["content"] = content
        self._log.own(frame, [PutTurn(record), *along], before=before)
        return turn

    def dispatch_first(self, instance_id: InstanceId) -> Turn:
        """Hand the first queued turn to ``instance_id``; the effects write it when it is stored."""
        turn = self.current = self.queued.popleft()
        turn.dispatched_at = time.perf_counter()
        self.feed(turn, TurnEvent.DISPATCHED, instance_id=instance_id)
        return turn

    def begin_by_cli(self, record: TurnRecord) -> Turn:
        """The CLI began a turn that nobody asked for."""
        turn = self.by_cli = Turn(record)
        turn.dispatched_at = time.perf_counter()
        self._log.own(self._frame(turn), [PutTurn(record)])
        return turn

    def started(self, turn: Turn) -> None:
        """The CLI took the message up."""
        if turn.state is TurnState.DISPATCHING:
            self._later(turn, self._turn_timeout_seconds, self._time_out)
        self.feed(turn, TurnEvent.STARTED)

    def reattached(self, turn: Turn) -> None:
        """``turn`` was given to this very instance before it was found (again); its deadlines begin anew."""
        self._cancel_timers(turn)
        self.feed(turn, TurnEvent.REATTACHED)
        if turn.is_interrupting:
            self._effects.send_interrupt(turn)
            self._later(turn, self._grace_seconds, self._grace_over)
        elif turn.state is not TurnState.DISPATCHING:
            self._later(turn, self._turn_timeout_seconds, self._time_out)

    def note_outcome(self, turn: Turn, outcome: Outcome) -> None:
        """A result came; the last one before the end decides."""
        turn.outcome = outcome
        reason = outcome.reason.as_dict() if outcome.reason else None
        pending = {"pending": {"state": outcome.state.value, "reason": reason}}
        self._log.change(PatchTurn(turn.record.turn_id, {"reason": pending}))

    def end(self, turn: Turn, outcome: Outcome) -> None:
        """The turn is over. The first ending counts; any other is ignored."""
        if not turn.state.is_terminal:
            self.feed(turn, outcome.event, outcome.reason)

    def interrupt_all(self, reason: Reason | None = None) -> None:
        """Withdraw what is queued, interrupt what runs."""
        for turn in list(self.queued):
            self.feed(turn, TurnEvent.INTERRUPT_REQUESTED, reason)
        self.interrupt_open(reason)

    def interrupt_open(self, reason: Reason | None = None) -> None:
        """Interrupt what runs, whoever began it."""
        for turn in (self.current, self.by_cli):
            if turn is not None and not turn.is_interrupting:
                self.feed(turn, TurnEvent.INTERRUPT_REQUESTED, reason)

    def feed(self, turn: Turn, event: TurnEvent, reason: Reason | None = None, **changes: InstanceId) -> None:
        """Move ``turn`` and carry out what the table commands."""
        was = turn.state
        commands = turn.machine.feed(event)
        turn.reason = reason or turn.reason
        patch: dict[str, Any] = {"state": turn.state, **changes}
        if event in (TurnEvent.INTERRUPT_REQUESTED, TurnEvent.DEADLINE_PASSED):
            patch["interrupt"] = True
        if turn.state.is_terminal:
            patch["ended_at"] = self._clock.wall()
            patch["reason"] = turn.reason.as_dict() if turn.reason else None
            self._forget(turn)
        turn.record = replace(turn.record, **patch)
        self._carry_out(turn, commands, PatchTurn(turn.record.turn_id, patch))
        if turn.state.is_terminal and not was.is_terminal:
            self._effects.turn_ended(turn)

    def _carry_out(self, turn: Turn, commands: Sequence[TurnCommand], patch: Operation) -> None:
        if TurnCommand.CLOSE_PERMISSIONS in commands:
            self._effects.close_permissions(turn)
        if TurnCommand.PUBLISH in commands:
            self._log.own(self._frame(turn), [patch])
        elif TurnCommand.RECORD in commands:
            self._log.change(patch)
        if TurnCommand.WRITE_MESSAGE in commands:
            self._effects.write_message(turn)
        if TurnCommand.SEND_INTERRUPT in commands:
            self._effects.send_interrupt(turn)
        if TurnCommand.ARM_GRACE in commands:
            self._later(turn, self._grace_seconds, self._grace_over)
        if TurnCommand.STOP_INSTANCE in commands:
            self._effects.stop_instance("it did not end an interrupted turn")

    def _forget(self, turn: Turn) -> None:
        self._cancel_timers(turn)
        if turn is self.current:
            self.current = None
        elif turn is self.by_cli:
            self.by_cli = None
        elif turn in self.queued:
            self.queued.remove(turn)

    def _later(self, turn: Turn, seconds: float, action: Callable[[Turn], None]) -> None:
        turn.timers.append(asyncio.get_running_loop().call_later(seconds, action, turn))

    def _grace_over(self, turn: Turn) -> None:
        if not turn.state.is_terminal and self._effects.knows_instance():
            self.feed(turn, TurnEvent.GRACE_PASSED)
            self._log.flush()

    def _time_out(self, turn: Turn) -> None:
        if not turn.state.is_terminal and not turn.is_interrupting:
            reason = Reason("turn_timeout", f"the turn ran longer than {self._turn_timeout_seconds:g} s")
            self.feed(turn, TurnEvent.DEADLINE_PASSED, reason)

    def cancel_timers(self) -> None:
        """The server stops; the turns themselves go on."""
        for turn in (*self.queued, self.current, self.by_cli):
            if turn is not None:
                self._cancel_timers(turn)

    @staticmethod
    def _cancel_timers(turn: Turn) -> None:
        for timer in turn.timers:
            timer.cancel()
        turn.timers.clear()

    @staticmethod
    def _frame(turn: Turn) -> dict[str, Any]:
        record = turn.record
        body: dict[str, Any] = {
            "type": "turn",
            "turn_id": record.turn_id,
            "state": turn.state.value,
            "origin": record.origin,
        }
        if record.message_id is not None:
            body["message_id"] = record.message_id
        if turn.reason is not None:
            body["reason"] = turn.reason.as_dict()
        return body
