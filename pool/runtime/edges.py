"""The edges of every life: each is counted and is one line in the log.

A line has ids, codes and durations. It never has what anybody said: no
prompt, no answer, no line of stderr, no environment.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pool.errors import PoolError
from pool.launch.base import StopGraces
from pool.model import ExitStatus, Reason

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session
    from pool.runtime.turns import Turn

_log = logging.getLogger(__name__)


def instance_started(session: Session, instance: Instance) -> None:
    """Its process exists; it does not answer yet."""
    isolation = instance.handle.isolation if instance.handle is not None else None
    _log.info("instance started", extra=_ids(session, instance) | {"isolation": isolation})


def instance_ready(session: Session, instance: Instance, seconds: float) -> None:
    """It answers, ``seconds`` after it had its slot."""
    session.around.counters.spawn.observe(seconds, "ready")
    _log.info("instance ready", extra=_ids(session, instance) | {"seconds": round(seconds, 3)})


def launch_failed(session: Session, error: PoolError, seconds: float) -> None:
    """No instance came of it: the error's code and step say why and where."""
    step = error.details.get("step")
    outcome = "given_up" if step == "given_up" else error.code
    session.around.counters.spawn.observe(seconds, outcome)
    more = {"code": outcome, "step": step, "seconds": round(seconds, 3)}
    _log.info("instance not started", extra=_ids(session) | more)


def instance_exited(session: Session, instance: Instance, status: ExitStatus) -> None:
    """Its whole tree is gone."""
    counters = session.around.counters
    cause = "crashed" if instance.stop_reason is None else "stopped"
    if status.code is None and status.signal is None:
        cause = "keeper_lost"
    counters.exits.add(cause)
    if status.cause is not None:
        counters.limit_ends.add(status.cause)
    more: dict[str, Any] = {
        "cause": cause,
        "why": instance.stop_reason,
        "exit_code": status.code,
        "exit_signal": status.signal,
        "turns": instance.turns,
    }
    if instance.stop_asked_at is not None:
        seconds = time.perf_counter() - instance.stop_asked_at
        more["stop_seconds"] = round(seconds, 3)
        rungs = rungs_climbed(instance.graces, status, seconds)
        counters.stop.observe(seconds, rungs[-1])
        for rung in rungs:
            counters.kills.add(rung)
    _log.info("instance exited", extra=_ids(session, instance) | more)


def instance_stuck(session: Session, instance: Instance) -> None:
    """It outlived KILL."""
    counters = session.around.counters
    counters.kills.add("stuck")
    if instance.stop_asked_at is not None:
        counters.stop.observe(time.perf_counter() - instance.stop_asked_at, "stuck")
    _log.error("instance stuck", extra=_ids(session, instance))


def instance_adopted(session: Session, instance: Instance, result: str) -> None:
    """What became of an instance of an earlier server."""
    session.around.counters.adoptions.add(result)
    _log.info("instance adopted", extra=_ids(session, instance) | {"result": result})


def turn_ended(session: Session, turn: Turn) -> None:
    """It is terminal."""
    counters = session.around.counters
    outcome = turn.state.value
    counters.turns.add(outcome, turn.record.origin)
    more: dict[str, Any] = {
        "turn": turn.record.turn_id,
        "instance": turn.record.instance_id,
        "outcome": outcome,
        "origin": turn.record.origin,
        "code": turn.reason.code if turn.reason is not None else None,
    }
    if turn.dispatched_at is not None:
        seconds = time.perf_counter() - turn.dispatched_at
        counters.turn.observe(seconds, outcome)
        more["seconds"] = round(seconds, 3)
    _log.info("turn ended", extra=_ids(session) | more)


def session_faulted(session: Session, reason: Reason | None) -> None:
    """Nothing is tried any more until somebody looks after it."""
    more: dict[str, Any] = {"code": None}
    if reason is not None:
        more = {"code": reason.code, "exit_code": reason.exit_code, "exit_signal": reason.signal}
    _log.error("session faulted: it needs a person", extra=_ids(session) | more)


def tool_call_denied(session: Session, tool: str, rule: str | None) -> None:
    """A rule of the configuration forbids it. Not told is the call itself: anything may stand in it."""
    session.around.counters.tool_calls_denied.add()
    _log.info("tool call denied", extra=_ids(session) | {"tool": tool[:100], "rule": rule})


def rungs_climbed(graces: StopGraces | None, status: ExitStatus, seconds: float) -> list[str]:
    """The rungs up to the one that ended the process, worked out from exit status and time."""
    graces = graces or StopGraces()
    rungs = ["end_of_input"] if graces.end_of_input > 0 else []
    was_killed = status.signal == "SIGKILL"
    is_late = not rungs or seconds > graces.end_of_input
    if was_killed or is_late or status.signal == "SIGTERM":
        rungs += ["term"] if graces.term > 0 else []
    if was_killed or not rungs:
        rungs.append("kill")
    return rungs


def _ids(session: Session, instance: Instance | None = None) -> dict[str, Any]:
    ids: dict[str, Any] = {"user": session.key.user_id, "session": session.key.session_id}
    if instance is not None:
        ids |= {"instance": instance.id, "pid": instance.pid}
    return ids
