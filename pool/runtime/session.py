"""One session: its queue of turns, its one live instance, and what clients may ask of it.

The session is the owner of its instance and the meeting place of the three
machines. A crash is one event told three times, in this order, in one
synchronous block: instance exited, turn lost, session cooling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pool.errors import BadRequest
from pool.launch.base import StopGraces
from pool.lifecycle.instance import InstanceEvent
from pool.lifecycle.session import SessionEvent, SessionMachine
from pool.lifecycle.turn import TurnEvent
from pool.model import (
    Accepted,
    ExitStatus,
    InstanceState,
    Reason,
    SessionInfo,
    SessionState,
    TurnState,
)
from pool.policy.backoff import CrashHistory
from pool.policy.kept_rules import kept_texts
from pool.protocol.command_line import check_session_uuid
from pool.protocol.frames import Result
from pool.protocol.framing import Line
from pool.runtime import auditing, edges
from pool.runtime.adoption import Adoption
from pool.runtime.approvals import Approvals
from pool.runtime.delivery import Delivery
from pool.runtime.doubt import Doubt
from pool.runtime.ending import instance_ended, instance_stuck
from pool.runtime.envelope import Envelope
from pool.runtime.faults import pause_point
from pool.runtime.hub import Channel
from pool.runtime.idleness import Idleness
from pool.runtime.instance import Instance
from pool.runtime.log import SessionLog
from pool.runtime.message_ids import MessageIds
from pool.runtime.own_turns import begin_own_turn, end_own_turn
from pool.runtime.reader import Reader
from pool.runtime.remembering import remember
from pool.runtime.replay import Replay
from pool.runtime.steps import Steps
from pool.runtime.surroundings import Surroundings
from pool.runtime.turns import Turn, Turns
from pool.runtime.waking import Waking
from pool.store.base import PatchSession, SessionRecord, TurnRecord

_log = logging.getLogger(__name__)


class Session:
    """A durable conversation of one owner."""

    def __init__(self, record: SessionRecord, surroundings: Surroundings, next_turn_number: int) -> None:
        config = surroundings.config
        self.record = record
        self.key = record.key
        self.around = surroundings
        self.host = surroundings.hosts.of(record.key.user_id)
        self.machine = SessionMachine(str(record.key), _settled(record.state))
        self.channel = Channel(head=record.position, budget_bytes=config.viewer_budget_bytes)
        self.envelope = Envelope(record.key.session_id)
        self.log = SessionLog(
            record.key,
            surroundings.store,
            self.channel,
            self.envelope,
            record.position,
            surroundings.backlog,
        )
        self.log.on_committed = self._committed
        self.log.on_hold = self._hold
        self.channel.counters = self.log.counters = surroundings.counters
        self.replay = Replay(
            record.key,
            surroundings.store,
            self.envelope,
            self.host.launcher.read_spool,
            config.viewer_budget_bytes,
            config.max_line_bytes,
        )
        self.approvals = Approvals(record.key, self.log, surroundings.clock, config.permission_modes)
        self.approvals.on_remembered = partial(remember, self)
        self.turns = Turns(
            self.log,
            surroundings.clock,
            self,
            grace_seconds=config.stop_grace_seconds,
            turn_timeout_seconds=config.turn_timeout_seconds,
        )
        self.waking = Waking(self)
        self.adoption = Adoption(self)
        self.crashes = CrashHistory()
        self.instance: Instance | None = None
        self.usage: dict[str, Any] = {}
        self.used_at, self.holders = surroundings.clock.monotonic(), 0
        self.next_turn_number = next_turn_number
        self.accepting = asyncio.Lock()
        self.message_ids = MessageIds()
        self.idleness = Idleness(self)
        self.delivery, self.doubt = Delivery(self), Doubt(self)
        self._reader = Reader(self)
        self.steps = Steps(self)

    # --- facts -------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return self.machine.state

    @property
    def is_idle(self) -> bool:
        """Is there a live instance and nothing at all for it to do?"""
        return (
            self.instance is not None
            and self.instance.state is InstanceState.READY
            and not self.instance.is_lost
            and self.turns.open_turn is None
            and not self.turns.queued
            and not self.instance.background
        )

    def info(self) -> SessionInfo:
        """The session as clients see it."""
        return replace(info_of(self.record), state=self.state, cursor=self.channel.head)

    # --- messages ----------------------------------------------------------------------

    async def accept(
        self, record: TurnRecord, content: object, on_accepted: Callable[[Accepted], None] | None
    ) -> Accepted:
        """Queue a turn; returns when it is stored. The caller holds ``accepting``."""
        self.revive()
        accepted = Accepted(record.turn_id, record.message_id or "", record.position)
        before = (lambda: on_accepted(accepted)) if on_accepted is not None else None
        if record.message_id is not None:
            self.message_ids.add(record.message_id)
        self.turns.enqueue(record, content, before, along=[auditing.prompt(self, record, content)])
        self.next_turn_number += 1
        self.touch()
        self.feed(SessionEvent.TURN_SUBMITTED)
        self.log.flush()
        await self.log.settled()
        await pause_point("accept.after_store")
        return replace(accepted, place=self.host.slots.place(self.key))

    def revive(self) -> None:
        """A new message resets what only a person may reset: a fault, an archive."""
        if self.state is SessionState.FAULTED:
            self.crashes.forget()
            self.feed(SessionEvent.RESET_REQUESTED)
        elif self.state is SessionState.ARCHIVED:
            self.feed(SessionEvent.RESTORE_REQUESTED)
        elif self.state is SessionState.COOLING and not self.turns.queued:
            self.feed(SessionEvent.REST_DUE)

    def touch(self) -> None:
        """The user was here: the idle time begins anew."""
        self.patch(last_active_at=self.around.clock.wall(), woken_for_viewer=False)
        self.idleness.touch()

    def patch(self, **changes: Any) -> None:
        """Change and store facts of the session."""
        self.record = replace(self.record, **changes)
        self.log.change(PatchSession(self.key, changes))

    def interrupt(self, reason: Reason | None = None) -> None:
        """End the running turn, withdraw the queued ones; the session stays usable."""
        self.turns.interrupt_all(reason)

    def permission_settled(self) -> None:
        """If no approval is open any more, the turn runs again."""
        turn = self.turns.open_turn
        if turn is not None and turn.state is TurnState.AWAITING and not self.approvals.has_open:
            self.turns.feed(turn, TurnEvent.PERMISSION_SETTLED)

    # --- what the machine commands -----------------------------------------------------

    def feed(self, event: SessionEvent, reason: Reason | None = None) -> None:
        """See ``Steps.feed``."""
        self.steps.feed(event, reason)

    def fail_queued(self, reason: Reason) -> None:
        """No queued turn can run."""
        for turn in list(self.turns.queued):
            self.turns.feed(turn, TurnEvent.SESSION_FAULTED, reason)

    def dispatch_next(self) -> None:
        """See ``Delivery.next``."""
        self.delivery.next()

    # --- Effects of turns ---------------------------------------------------------------

    def write_message(self, turn: Turn) -> None:
        """See ``Delivery.message``."""
        self.delivery.message(turn)

    def send_interrupt(self, turn: Turn) -> None:
        """See ``Delivery.interrupt``."""
        self.delivery.interrupt(turn)

    def close_permissions(self, turn: Turn) -> None:
        """The turn has ended: nothing of it waits for an answer."""
        self.approvals.close_all()

    def set_instance(self, instance: Instance | None) -> None:
        """The session's process from now on; None: it is gone."""
        self.instance = instance
        if instance is None:
            self.around.live.pop(self.key, None)
        else:
            self.around.live[self.key] = instance

    def stop_instance(self, reason: str) -> None:
        """End the instance by the ladder, in the background."""
        if self.instance is not None and not self.instance.has_exited:
            self.instance.told_to_stop(reason)
            graces = StopGraces(end_of_input=0, term=self.around.config.stop_grace_seconds)
            self.around.tasks.start(self.instance.end(graces, reason), f"stop:{self.instance.id}")

    def knows_instance(self) -> bool:
        """Can the instance be told anything?"""
        return self.instance is None or not self.instance.is_lost

    def turn_ended(self, turn: Turn) -> None:
        """Exactly once for each turn."""
        edges.turn_ended(self, turn)
        self.approvals.close_all()
        instance = self.instance
        busy = instance is not None and instance.state in (InstanceState.BUSY, InstanceState.DRAINING)
        if instance is not None and busy and self.turns.open_turn is None:
            instance.machine.feed(InstanceEvent.TURN_ENDED)
        self.idleness.touch()
        if self.turns.current is None:
            self.around.running.ended(self)
        self.dispatch_next()

    # --- what the CLI tells ---------------------------------------------------------------

    def lines_received(self, instance: Instance, lines: Sequence[Line]) -> None:
        """Output of an instance; a late word of an earlier one is not ours any more."""
        if instance is self.instance:
            try:
                self._reader.read(instance, lines)
            except Exception:  # noqa: BLE001 - one user's output must not cut the connection of all users
                _log.exception("instance %s printed what could not be read; it is stopped", instance.id)
                self.stop_instance("its output could not be read")

    def turn_by_cli(self) -> None:
        """The CLI began a turn that nobody asked for (background work ended, a resume)."""
        begin_own_turn(self)

    def cli_is_idle(self) -> None:
        """No turn is owed any more."""
        end_own_turn(self)
        self.dispatch_next()

    def cli_session_is(self, cli_session: str | None) -> None:
        """The CLI's own id of the conversation: what a resume needs. It can change."""
        if cli_session and cli_session != self.record.cli_session:
            with contextlib.suppress(BadRequest):  # with anything else it could never be resumed
                self.patch(cli_session=check_session_uuid(cli_session))

    def permission_mode_is(self, mode: str) -> None:
        """The mode changed in the CLI (a plan was approved): keep it for the next instance."""
        if mode != self.record.permission_mode and mode in self.around.config.permission_modes:
            self.patch(permission_mode=mode)

    def note_usage(self, frame: Result) -> None:
        """What the last result said of tokens and cost."""
        self.usage = {"last_turn": dict(frame.usage), "cost_usd": frame.total_cost_usd}

    # --- the end of an instance -----------------------------------------------------------

    def instance_exited(self, instance: Instance, status: ExitStatus, stderr_tail: str) -> None:
        """The process is really gone."""
        if instance is self.instance:
            instance_ended(self, instance, status)

    def instance_stuck(self, instance: Instance) -> None:
        """The process outlived the ladder."""
        if instance is self.instance:
            instance_stuck(self, instance)

    def keeper_lost(self, instance: Instance) -> None:
        """Nothing of it is known: ``Adoption.find_again`` goes on when its host is reached."""

    def quiet(self) -> None:
        """The server stops: no timer of this session fires any more."""
        self.idleness.stop()
        self.turns.cancel_timers()
        self.steps.quiet()

    def _hold(self, is_held: bool) -> None:
        if self.instance is not None:
            self.instance.hold(is_held)

    def _committed(self, instance_id: str, offset: int) -> None:
        if self.instance is not None and self.instance.id == instance_id:
            self.instance.committed(offset, self.around.config.delta_retention_bytes)


def info_of(record: SessionRecord) -> SessionInfo:
    """A session that is not in memory, as clients see it."""
    return SessionInfo(
        record.key.user_id,
        record.key.session_id,
        record.title,
        _settled(record.state),
        record.template,
        record.model,
        record.permission_mode,
        record.created_at,
        record.last_active_at,
        record.position,
        tuple(kept_texts(record.remembered)),
    )


def _settled(state: SessionState) -> SessionState:
    """The state in which a session that nobody works on is found after a restart."""
    if state in (SessionState.WAKING, SessionState.LIVE, SessionState.COOLING):
        return SessionState.PARKED
    return state
