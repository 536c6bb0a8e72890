"""Turns that say nothing although nothing is waited for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pool.launch.process_table import WatchedTree
from pool.lifecycle.turn import TurnEvent
from pool.model import Reason, TurnId, TurnState
from pool.policy.outcome import Outcome
from pool.policy.stall import Silence, TurnFacts, judge_silence
from pool.runtime.instance import Instance
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor
from pool.runtime.turns import Turn

_log = logging.getLogger(__name__)
# Between the begin of a turn and the first look at it, with room for a clock that ticks.
_LOOKS_APART_SECONDS = 10.0


@dataclass(slots=True)
class _Watched:
    """A turn: when it was first seen, how far its output was, since when it is silent."""

    seen_at: float
    spoken: int
    silent_since: float
    was_told: bool = False
    may_be_older: bool = False


class Stalls:
    """Tells of silent turns after ``turn_stall_seconds`` and interrupts them after twice that.

    A turn that has its result and no end for ``AFTER_RESULT_SECONDS`` is ended with that result. A CLI
    that answers and does not even begin with a message would never begin with the next one: it is replaced.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._around = supervisor.around
        self._watched: dict[TurnId, _Watched] = {}
        self._has_looked = False

    @property
    def silent_turns(self) -> int:
        """Turns that are silent for too long now."""
        return sum(watched.was_told for watched in self._watched.values())

    def check(self) -> dict[str, Any]:
        """How the health page tells it: never a fault of the whole, one user's turn hangs."""
        limit = self._around.config.turn_stall_seconds
        if not self.silent_turns:
            return {"ok": True, "detail": "no turn hangs"}
        return {"ok": True, "detail": f"{self.silent_turns} turns without output for more than {limit:g} s"}

    def look(self, trees: Mapping[str, WatchedTree]) -> None:
        """Judge every open turn in one step. ``trees`` are the processes of the instances, where known."""
        if self._around.config.turn_stall_seconds <= 0:
            return
        now = self._around.clock.monotonic()
        seen: set[TurnId] = set()
        for instance in self._supervisor.live_instances():
            session = self._supervisor.sessions[instance.key]
            turn = session.turns.open_turn
            if turn is not None:
                seen.add(turn.record.turn_id)
                self._look_at(session, instance, turn, trees.get(instance.id), now)
        for gone in self._watched.keys() - seen:
            del self._watched[gone]
        self._has_looked = True

    def _look_at(
        self, session: Session, instance: Instance, turn: Turn, tree: WatchedTree | None, now: float
    ) -> None:
        spoken = instance.received_offset - instance.progress.idle_bytes
        watched = self._watched.get(turn.record.turn_id)
        if watched is None:
            # A turn of an earlier server may have begun, and its tools with it, long before.
            watched = _Watched(now, spoken, now, may_be_older=not self._has_looked)
            self._watched[turn.record.turn_id] = watched
        facts = TurnFacts(
            silent_seconds=now - watched.silent_since,
            has_open_approval=session.approvals.has_open or instance.is_lost,
            runs_tool=bool(instance.progress.tools) or _runs_process(watched, tree, now),
            is_retrying=instance.progress.is_retrying,
            has_result=turn.outcome is not None and not instance.background,
        )
        if spoken != watched.spoken or facts.is_waiting:
            watched.spoken, watched.silent_since, watched.was_told = spoken, now, False
        else:
            self._judge(session, turn, watched, facts)

    def _judge(self, session: Session, turn: Turn, watched: _Watched, facts: TurnFacts) -> None:
        silence = judge_silence(facts, self._around.config.turn_stall_seconds)
        more = {
            "user": session.key.user_id,
            "session": session.key.session_id,
            "turn": turn.record.turn_id,
            "seconds": round(facts.silent_seconds),
        }
        if silence is Silence.OVER and turn.outcome is not None:
            _log.warning("instance hangs after a result and is replaced", extra=more)
            session.stop_instance("it hung after its result")
            session.turns.end(turn, turn.outcome)
            session.log.flush()
        elif silence is Silence.LONG and not watched.was_told:
            watched.was_told = True
            _log.warning("turn silent", extra=more)
        elif silence is Silence.STALLED and turn.state is TurnState.DISPATCHING:
            _log.warning("instance does not take a message up and is replaced", extra=more)
            session.stop_instance("it did not take a message up")
            silent = f"the CLI did not begin with it for {facts.silent_seconds:.0f} s"
            message = f"{silent} and was replaced; send it again"
            session.turns.end(turn, Outcome(TurnState.INTERRUPTED, Reason("turn_stalled", message)))
            session.log.flush()
        elif silence is Silence.STALLED and not turn.is_interrupting:
            _log.warning("turn interrupted: it was silent for too long", extra=more)
            message = (
                f"nothing came for {facts.silent_seconds:.0f} s and no tool was running; it was interrupted"
            )
            session.turns.feed(turn, TurnEvent.INTERRUPT_REQUESTED, Reason("turn_stalled", message))
            session.log.flush()


def _runs_process(watched: _Watched, tree: WatchedTree | None, now: float) -> bool:
    """Does a process run that was started during the turn? MCP servers and older work are none."""
    if tree is None or not tree.tool_ages:
        return False
    return watched.may_be_older or min(tree.tool_ages) < now - watched.seen_at + _LOOKS_APART_SECONDS
