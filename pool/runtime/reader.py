"""What the CLI's frames mean for a session: one small function a kind of frame.

Everything here is synchronous. A frame is first given its place in the log,
then what follows from it is derived, so that after a crash the same line
gives the same events again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pool.lifecycle.turn import TurnEvent
from pool.model import Reason, TurnState
from pool.policy.outcome import INTERRUPTED, Outcome, outcome_of
from pool.protocol import frames
from pool.protocol.framing import Line
from pool.protocol.parsing import parse_line
from pool.protocol.tool_use import tool_uses
from pool.runtime import auditing
from pool.runtime.instance import Instance

if TYPE_CHECKING:
    from pool.runtime.session import Session
    from pool.runtime.turns import Turn

_log = logging.getLogger(__name__)


class Reader:
    """Reads the output of a session's live instance."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._meanings: dict[type[frames.Frame], Callable[[Instance, Any], None]] = {
            frames.ControlRequest: self._control_request,
            frames.ControlResponse: self._control_response,
            frames.ControlCancelRequest: self._control_cancel,
            frames.CommandLifecycle: self._lifecycle,
            frames.Assistant: self._assistant,
            frames.Result: self._result,
            frames.SystemInit: self._init,
            frames.SessionStateChanged: self._session_state,
            frames.PermissionModeStatus: self._permission_mode,
            frames.TaskEvent: self._task_event,
        }

    def read(self, instance: Instance, lines: Sequence[Line]) -> None:
        """Take whole lines, in order; publish what need not wait."""
        log = self._session.log
        deltas = 0
        for line in lines:
            frame = parse_line(line)
            if type(frame) is frames.StreamEvent:
                log.line(line.end_offset, line.data, durable=False)
                deltas += 1
            else:
                deltas = self._heard(deltas)
                self._one(instance, line, frame)
        self._heard(deltas)
        log.flush()

    def _heard(self, deltas: int) -> int:
        """Count a run of token deltas; 0 for the next run."""
        if deltas:
            counters, turn = self._session.around.counters, self._session.turns.current
            counters.events.add("delta", by=deltas)
            if turn is not None and not turn.has_spoken and turn.dispatched_at is not None:
                turn.has_spoken = True
                counters.first_token.observe(time.perf_counter() - turn.dispatched_at)
        return 0

    def _one(self, instance: Instance, line: Line, frame: frames.Frame) -> None:
        if frames.is_published(frame):
            self._session.log.line(line.end_offset, line.data, durable=frames.is_durable(frame))
        else:
            self._session.log.skipped(line.end_offset)
        if line.oversized:
            self._too_long(instance)
        elif isinstance(frame, frames.Malformed):
            _log.warning("instance %s printed a line that is no frame: %s", instance.id, frame.reason)
        instance.progress.saw(frame)
        meaning = self._meanings.get(type(frame))
        if meaning is not None:
            meaning(instance, frame)

    def _too_long(self, instance: Instance) -> None:
        turns = self._session.turns
        reason = Reason("frame_too_large", "the CLI printed a line above the bound; it was dropped")
        _log.error("instance %s printed a line above the bound", instance.id)
        turn = turns.open_turn
        if turn is not None and turn.state is not TurnState.DISPATCHING:
            turns.end(turn, Outcome(TurnState.FAILED, reason))
            self._session.send_interrupt(turn)

    # --- control frames ----------------------------------------------------------------

    def _control_request(self, instance: Instance, frame: frames.ControlRequest) -> None:
        session = self._session
        if frame.subtype == "hook_callback" and session.around.tool_policy.answer(session, instance, frame):
            return
        if frame.subtype != "can_use_tool":
            session.delivery.refuse(instance, frame.request_id, frame.subtype)
            return
        turn = session.turns.open_turn
        turn_id = turn.record.turn_id if turn is not None else None
        new = session.approvals.asked(instance.id, turn_id, frame.request_id, dict(frame.request))
        if new and turn is not None and turn.machine.can(TurnEvent.PERMISSION_ASKED):
            session.turns.feed(turn, TurnEvent.PERMISSION_ASKED)

    def _assistant(self, _instance: Instance, frame: frames.Assistant) -> None:
        if uses := tool_uses(frame.raw):
            self._session.log.change(*auditing.tools_called(self._session, uses))

    def _control_response(self, instance: Instance, frame: frames.ControlResponse) -> None:
        instance.answered(frame)

    def _control_cancel(self, _instance: Instance, frame: frames.ControlCancelRequest) -> None:
        self._session.approvals.cancelled(frame.request_id)
        self._session.permission_settled()

    # --- turns -------------------------------------------------------------------------

    def _lifecycle(self, _instance: Instance, frame: frames.CommandLifecycle) -> None:
        turns = self._session.turns
        turn = turns.current
        if turn is None or turn.record.turn_id != frame.command_uuid:
            return
        if frame.state == "started":
            turns.started(turn)
        elif frame.state in ("completed", "cancelled") and self._is_last_word(turn, frame):
            cancelled = frame.state == "cancelled"
            outcome = turn.outcome
            if outcome is None or (cancelled and outcome.state is TurnState.SUCCEEDED):
                outcome = self._outcome(turn, None, cancelled=cancelled)
            turns.end(turn, outcome)

    def _is_last_word(self, turn: Turn, frame: frames.CommandLifecycle) -> bool:
        """Where a result ends the turn, only a message that never began ends without one."""
        if self._session.around.features.lifecycle:
            return True
        return frame.state == "cancelled" and turn.state is TurnState.DISPATCHING

    def _result(self, instance: Instance, frame: frames.Result) -> None:
        session = self._session
        turn = session.turns.current
        session.note_usage(frame)
        # After /clear this is the first frame with the new id; the reset's own id is another (measured).
        session.cli_session_is(frame.session_id)
        by_cli = session.turns.by_cli
        is_starting = turn is None or turn.state is TurnState.DISPATCHING
        if turn is not None and (not is_starting or frame.user_message_uuid == turn.record.turn_id):
            session.turns.note_outcome(turn, self._outcome(turn, frame, cancelled=False))
            self._end_without_lifecycle(turn, frame)
        if is_starting and by_cli is not None:
            session.turns.end(by_cli, self._outcome(by_cli, frame, cancelled=False))
        if not session.around.features.session_state:
            instance.cli_state = "idle"
            session.cli_is_idle()

    def _end_without_lifecycle(self, turn: Turn, frame: frames.Result) -> None:
        """Where the CLI does not tell a turn's end its result does, if it can be the turn's own."""
        named = frame.user_message_uuid
        is_own = named == turn.record.turn_id or (named is None and frame.origin is None)
        if is_own and turn.outcome is not None and not self._session.around.features.lifecycle:
            self._session.turns.end(turn, turn.outcome)

    @staticmethod
    def _outcome(turn: Turn, result: frames.Result | None, *, cancelled: bool) -> Outcome:
        return outcome_of(
            result,
            cancelled=cancelled,
            interrupted=turn.is_interrupting,
            why=turn.reason or INTERRUPTED,
        )

    def _init(self, instance: Instance, frame: frames.SystemInit) -> None:
        session = self._session
        session.cli_session_is(frame.session_id)
        features, turn = session.around.features, session.turns.current
        if not features.session_state:
            instance.cli_state = "running"
        if session.turns.by_cli is not None or (turn is not None and turn.state is not TurnState.DISPATCHING):
            return
        if turn is None or features.lifecycle:
            session.turn_by_cli()
        else:
            session.turns.started(turn)

    def _session_state(self, instance: Instance, frame: frames.SessionStateChanged) -> None:
        instance.cli_state = frame.state
        if frame.state == "idle":
            self._session.cli_is_idle()

    # --- facts that outlive the instance -----------------------------------------------

    def _permission_mode(self, _instance: Instance, frame: frames.PermissionModeStatus) -> None:
        self._session.permission_mode_is(frame.permission_mode)

    def _task_event(self, instance: Instance, frame: frames.TaskEvent) -> None:
        if frame.tasks is not None:
            had_work = bool(instance.background)
            instance.background = {str(task.get("task_id") or task.get("id")) for task in frame.tasks}
            if had_work and not instance.background:
                self._session.idleness.touch()
                self._session.idleness.rest()
