"""How a session takes over an instance that runs already: after a restart, after its host was lost.

First everything that the instance printed meanwhile is read, so that nothing
new gets a cursor below what viewers have seen. Then the CLI's own word
decides: which approvals are open, and whether it is at work. Until its host
has told, an instance is unknown: nothing is given to it and nothing ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING

from pool.errors import InstanceGone, KeeperUnavailable, PoolError
from pool.launch.base import InstanceListing
from pool.lifecycle.instance import InstanceEvent
from pool.lifecycle.session import SessionEvent, SessionMachine
from pool.lifecycle.turn import TurnEvent
from pool.model import Cursor, ExitStatus, InstanceState, Reason, SessionState, TurnState
from pool.protocol.connection import pending_asks
from pool.runtime import edges
from pool.runtime.instance import Instance
from pool.runtime.mending import fault_of
from pool.store.base import OpenWork, PatchInstance

if TYPE_CHECKING:
    from pool.protocol.frames import ControlResponse
    from pool.runtime.session import Session
    from pool.runtime.turns import Turn

_log = logging.getLogger(__name__)
_INGEST_SECONDS = 60.0
_ATTACH_SECONDS = 15.0
# A CLI that is slow to answer, or never will, holds up its own session only, not the server's start.
_START_SECONDS = 2.0
# A viewer that is ahead of what is known here waits so long for the instance's host.
_VIEWER_SECONDS = 10.0
_AGAIN_SECONDS = (0.2, 1.0, 5.0, 15.0)


class Adoption:
    """Takes over what an earlier server, or a lost connection to the host, left of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._finding = asyncio.Lock()
        self._found = asyncio.Event()
        self._found.set()
        self.spoilt: Reason | None = None

    def tell_spoilt(self) -> None:
        """If the session's own row could not be read: fault it, once, and say why."""
        fault, self.spoilt = self.spoilt, None
        if fault is not None:
            self.failed(fault)

    def restore(self, work: OpenWork) -> None:
        """Make of the rows what an earlier server had of this session; its instance is unknown yet."""
        session = self._session
        fault = self._restore(work)
        if not work.instances:
            if fault is not None:
                self.failed(fault)
            self._wake_for_queued()
            return
        *older, record = work.instances
        for left in older:
            session.log.change(PatchInstance(left.instance_id, {"state": InstanceState.EXITED}))
        instance = Instance(
            record.instance_id,
            session.key,
            record.ordinal,
            session,
            epoch=session.around.epoch,
            max_line_bytes=session.around.config.max_line_bytes,
            started_at=record.started_at,
            offset=record.offset,
            turns=record.turns,
            started_clock=record.started_clock,
        )
        instance.on_stuck = session.instance_stuck
        instance.is_held = session.log.is_held
        instance.is_lost = True
        self._found.clear()
        session.set_instance(instance)
        session.host.slots.adopt(session.key)
        session.log.begin_instance(instance.id, instance.ordinal, record.offset)
        session.replay.spools[instance.ordinal] = instance.id
        self._stands_as_found()
        instance.machine.feed(InstanceEvent.HANDSHAKE_DONE)
        if session.turns.open_turn is not None:
            instance.machine.feed(InstanceEvent.TURN_STARTED)
        session.idleness.go_on()
        if fault is not None:
            instance.told_to_stop(fault.message)
            self.failed(fault)

    async def find_again(self) -> None:
        """The host of an instance that is unknown was reached: take over what it tells."""
        session = self._session
        async with self._finding:
            instance = session.instance
            if instance is None or instance.has_exited or not instance.is_lost:
                return
            listing = session.host.listings.get(instance.id)
            is_untold = listing is None or listing.exit_status == ExitStatus()
            if is_untold and instance.handle is not None:
                # It was ours and nobody saw its end: that is not the session's crash.
                instance.stop_reason = instance.stop_reason or "its keeper died"
            if listing is None:
                session.replay.spools.pop(instance.ordinal, None)
                edges.instance_adopted(session, instance, "gone")
                instance.exited(ExitStatus(), "")
                self._found.set()
                return
            try:
                await self._follow(instance, listing)
                self._found_out(instance)
            except Exception:  # noqa: BLE001 - unknown is not dead: it is kept, and asked again
                _log.exception("instance %s could not be asked; it is asked again", instance.id)
                instance.is_lost = True
                session.around.tasks.start(self._follow_later(instance, listing), f"attach:{instance.id}")

    def _restore(self, work: OpenWork) -> Reason | None:
        """Turns and approvals as they stood. What cannot be read of them ends; why, if so."""
        session = self._session
        self.spoilt = None
        fault = fault_of(row.table for row in work.spoilt) if work.spoilt else None
        if fault is None:
            try:
                session.turns.restore(work.turns)
                session.approvals.restore(work.permissions)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this session's alone
                _log.exception("the open turns of session %s could not be restored", session.key)
                message = (
                    f"what an earlier server left of it could not be taken over ({type(error).__name__})"
                )
                fault = Reason("not_restored", message)
        if fault is not None:
            session.approvals.restore(work.permissions)
            session.turns.lose_all(work.turns, fault)
            session.approvals.close_all()
            return fault
        if session.turns.current is not None:
            session.around.running.began(session)
        return None

    def failed(self, fault: Reason) -> None:
        """The session could not be taken over: it is faulted, and the next message begins anew."""
        session = self._session
        if session.machine.can(SessionEvent.RESTORE_FAILED):
            session.feed(SessionEvent.RESTORE_FAILED, fault)
        session.log.flush()

    async def known_to(self, cursor: Cursor) -> None:
        """Wait, not for long, for what an earlier server told viewers up to ``cursor`` and did not store."""
        if cursor > self._session.channel.head:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_VIEWER_SECONDS):
                    await self._found.wait()
                    await self._session.log.settled()

    def _found_out(self, instance: Instance) -> None:
        if instance.has_exited or not instance.is_lost:
            self._found.set()

    async def _follow_later(self, instance: Instance, listing: InstanceListing) -> None:
        host = self._session.host
        for seconds in itertools.chain(_AGAIN_SECONDS, itertools.repeat(_AGAIN_SECONDS[-1])):
            await asyncio.sleep(seconds)
            if instance.has_exited or self._session.around.is_stopping or not host.is_reached:
                return  # once its host is reached again, it is found again
            try:
                async with self._finding:
                    if instance.is_lost:
                        await self._follow(instance, listing)
                        self._found_out(instance)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("instance %s could not be asked; it is asked again", instance.id)
                instance.is_lost = True
            else:
                return

    async def _follow(self, instance: Instance, listing: InstanceListing) -> None:
        session, losses = self._session, instance.losses
        try:
            handle = await session.host.launcher.attach(instance.id, instance.received_offset, instance)
            if instance.losses != losses:
                return  # it was lost in the same moment
            instance.found(handle)
            await instance.received(listing.end_offset, _INGEST_SECONDS)
            if listing.exit_status is not None:
                edges.instance_adopted(session, instance, "ended")
                async with asyncio.timeout(_ATTACH_SECONDS):
                    await instance.ended.wait()
                return
        except KeeperUnavailable:
            if session.host.is_reached:
                raise  # it is there and refuses
            return
        except (PoolError, TimeoutError) as error:
            self._failed(instance, error)
            return
        if instance.stop_reason is not None:
            session.stop_instance(instance.stop_reason)
        else:
            work = session.around.tasks.spawn(self._greet(instance), f"take-over:{session.key}")
            await asyncio.wait({work}, timeout=_START_SECONDS)

    async def _greet(self, instance: Instance) -> None:
        """Shake hands with a CLI whose output is read: until then it gets no turn."""
        session = self._session
        try:
            await session.around.tool_policy.answer_again(session, instance)
            hooks = session.around.tool_policy.hooks(session)
            answer = await instance.handshake(_ATTACH_SECONDS, hooks)
        except (PoolError, TimeoutError) as error:
            self._failed(instance, error)
        else:
            edges.instance_adopted(session, instance, "taken_over")
            if instance is session.instance and not instance.has_exited:
                await self._taken_over(instance, answer)

    def _failed(self, instance: Instance, error: PoolError | TimeoutError) -> None:
        """It is gone, its host is lost again, or it does not answer; only the last is stopped."""
        session = self._session
        if isinstance(error, InstanceGone):
            instance.exited(ExitStatus(), "")
        elif not instance.is_lost:
            code = error.code if isinstance(error, PoolError) else "timeout"
            _log.error("instance %s could not be taken over and is stopped: %s", instance.id, code)
            edges.instance_adopted(session, instance, "failed")
            session.stop_instance("it could not be taken over")

    def _stands_as_found(self) -> None:
        """A session with an instance is live, or about to be; it is not parked as it was loaded."""
        session = self._session
        if session.state is not SessionState.ARCHIVED:
            was_live = session.record.state is SessionState.LIVE
            state = SessionState.LIVE if was_live else SessionState.WAKING
            session.machine = SessionMachine(str(session.key), state)

    async def _taken_over(self, instance: Instance, answer: ControlResponse) -> None:
        """The CLI's own word decides: open asks, and whether it is at work."""
        session = self._session
        if session.state is not SessionState.LIVE:
            session.feed(SessionEvent.INSTANCE_READY)
        asks = pending_asks(answer)
        for ask in asks:
            self._ask_again(instance, ask.request_id, dict(ask.request))
        is_told = session.around.features.pending_asks and "pending_permission_requests" in answer.envelope
        for line in session.approvals.reconcile([ask.request_id for ask in asks] if is_told else None):
            with contextlib.suppress(PoolError):
                await instance.write(line)
        session.permission_settled()
        turn = session.turns.current
        if (
            turn is not None
            and turn.state is TurnState.DISPATCHING
            and not session.around.features.repeats_ignored
        ):
            self._lose(turn, instance)
        elif turn is not None and not turn.state.is_terminal:
            session.turns.reattached(turn)
        if instance.cli_state == "idle":
            session.cli_is_idle()
        session.idleness.go_on()
        session.log.flush()

    def _lose(self, turn: Turn, instance: Instance) -> None:
        """Nobody knows whether the CLI has the message, and twice it would run twice."""
        text = "the server ended while it handed the message over, and this CLI must not get it again"
        self._session.turns.feed(turn, TurnEvent.INSTANCE_LOST, Reason("not_repeatable", text))
        if instance.cli_state != "idle":
            self._session.send_interrupt(turn)

    def _ask_again(self, instance: Instance, request_id: str, request: dict[str, object]) -> None:
        session = self._session
        turn = session.turns.open_turn
        turn_id = turn.record.turn_id if turn is not None else None
        new = session.approvals.asked(instance.id, turn_id, request_id, dict(request))
        if new and turn is not None and turn.machine.can(TurnEvent.PERMISSION_ASKED):
            session.turns.feed(turn, TurnEvent.PERMISSION_ASKED)

    def _wake_for_queued(self) -> None:
        session = self._session
        if session.turns.queued and session.state is SessionState.PARKED:
            session.feed(SessionEvent.TURN_SUBMITTED)
