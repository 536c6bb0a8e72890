"""The end of an instance, told to its session in one synchronous block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pool.launch.base import StopGraces
from pool.lifecycle.session import SessionEvent
from pool.lifecycle.turn import TurnEvent
from pool.model import ExitStatus, InstanceState, Reason
from pool.runtime import auditing, edges
from pool.runtime.instance import Instance
from pool.runtime.last_words import last_lines
from pool.store.base import PatchInstance

if TYPE_CHECKING:
    from pool.runtime.session import Session

_TERM_SECONDS = 1.0


def instance_ended(session: Session, instance: Instance, status: ExitStatus) -> None:
    """The process is really gone: turns are lost, approvals withdrawn, the slot is given back.

    No await from the first line to the last, so that nobody sees a session
    whose instance is half gone.
    """
    patch = {
        "state": InstanceState.EXITED,
        "exited_at": session.around.clock.wall(),
        "exit_code": status.code,
        "exit_signal": status.signal,
    }
    session.log.change(PatchInstance(instance.id, patch), auditing.instance_ended(session, instance, status))
    edges.instance_exited(session, instance, status)
    if instance.received_offset == 0:
        session.replay.silent.add(instance.ordinal)
    was_waking = session.waking.is_under_way
    reason = _reason(instance, status)
    session.set_instance(None)
    _lose_turns(session, reason)
    session.approvals.close_all()
    session.idleness.stop()
    session.host.slots.release(session.key)
    session.around.instance_ended(session.host, instance.id)
    if not was_waking:
        _tell_session(session, instance, status, reason)
    session.log.flush()


def end_at_once(session: Session, instance: Instance, reason: Reason) -> None:
    """End an instance at once: its open turns are lost for ``reason``; queued ones wait for the next."""
    instance.told_to_stop(reason.message)
    turns = session.turns
    for turn in (turns.by_cli, turns.current):
        if turn is not None:
            turns.feed(turn, TurnEvent.INSTANCE_LOST, reason)
    session.log.flush()
    graces = StopGraces(end_of_input=0, term=min(_TERM_SECONDS, session.around.config.stop_grace_seconds))
    session.around.tasks.start(instance.end(graces, reason.message), f"stop:{instance.id}")


def instance_stuck(session: Session, instance: Instance) -> None:
    """The process outlived SIGKILL: slot and workspace stay taken, and no second one may begin."""
    reason = Reason("instance_stuck", "the claude process cannot be ended; an operator must look after it")
    session.log.change(PatchInstance(instance.id, {"state": InstanceState.STUCK}))
    edges.instance_stuck(session, instance)
    _lose_turns(session, reason)
    if not session.waking.is_under_way and session.machine.can(SessionEvent.INSTANCE_STUCK):
        session.feed(SessionEvent.INSTANCE_STUCK, reason)
    session.log.flush()


def _lose_turns(session: Session, reason: Reason) -> None:
    turns = session.turns
    for turn in (turns.by_cli, turns.current):
        if turn is None:
            continue
        if turn.is_interrupting:
            turns.feed(turn, TurnEvent.ENDED_INTERRUPTED, turn.reason)
        else:
            turns.feed(turn, TurnEvent.INSTANCE_LOST, reason)


def _tell_session(session: Session, instance: Instance, status: ExitStatus, reason: Reason) -> None:
    if not session.machine.can(SessionEvent.INSTANCE_ENDED):
        return  # it outlived its time as the session's instance
    if instance.stop_reason is not None or session.around.is_stopping:
        session.feed(SessionEvent.INSTANCE_ENDED)
    elif session.crashes.crashed(session.around.clock.monotonic()):
        loop = session.crashes.reason(status)
        message = _with_last_words(loop.message, instance)
        session.feed(SessionEvent.CRASH_LOOP, replace(loop, message=message))
    else:
        session.feed(SessionEvent.INSTANCE_CRASHED, reason)


def _reason(instance: Instance, status: ExitStatus) -> Reason:
    if instance.stop_reason is not None:
        return Reason("instance_stopped", f"the instance was stopped: {instance.stop_reason}")
    message = _with_last_words(f"the claude CLI {status.describe()}", instance)
    return Reason(status.cause or "instance_exited", message, status.code, status.signal)


def _with_last_words(message: str, instance: Instance) -> str:
    said = last_lines(instance.stderr_tail)
    return f"{message}; it said: {said}" if said else message
