"""The steps of a session: its machine is moved, the new state stored and told, the commands carried out."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pool.lifecycle.session import SessionCommand, SessionEvent
from pool.lifecycle.turn import TurnEvent
from pool.model import Place, Reason, SessionState
from pool.runtime import edges
from pool.store.base import PatchSession

if TYPE_CHECKING:
    from pool.runtime.session import Session


class Steps:
    """Moves one session's machine."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cooling_timer: asyncio.TimerHandle | None = None

    def feed(self, event: SessionEvent, reason: Reason | None = None) -> None:
        """Move the session; store and publish a changed state; carry out the commands."""
        session = self._session
        was = session.state
        commands = session.machine.feed(event)
        if session.state is not was:
            body: dict[str, Any] = {"type": "session", "state": session.state.value}
            if reason is not None:
                body["reason"] = reason.as_dict()
            session.record = replace(session.record, state=session.state)
            session.log.own(body, [PatchSession(session.key, {"state": session.state})])
        for command in commands:
            self._carry_out(command, reason)

    def tell_waking(self, place: Place | None) -> None:
        """Tell viewers where the session stands in line; None: in none any more, its instance starts."""
        session = self._session
        if session.state is SessionState.WAKING:
            body: dict[str, Any] = {"type": "session", "state": session.state.value}
            if place is not None:
                body["queue"] = place.as_dict()
            session.log.own(body)
            session.log.flush()

    def _carry_out(self, command: SessionCommand, reason: Reason | None) -> None:
        session = self._session
        if command is SessionCommand.TAKE_SLOT:
            session.waking.begin()
        elif command is SessionCommand.DISPATCH_NEXT:
            session.dispatch_next()
        elif command is SessionCommand.WAKE_IF_QUEUED:
            if session.turns.queued and not session.around.is_stopping:
                self.feed(SessionEvent.TURN_SUBMITTED)
        elif command is SessionCommand.ARM_BACKOFF:
            self._arm_backoff()
        elif command is SessionCommand.STOP_INSTANCE:
            session.waking.give_up()
            session.stop_instance("archived")
        elif command is SessionCommand.ALERT_OPERATOR:
            edges.session_faulted(session, reason)
        else:
            self._end_queued(command, reason)

    def _end_queued(self, command: SessionCommand, reason: Reason | None) -> None:
        session = self._session
        if command is SessionCommand.FAIL_QUEUED_TURNS:
            session.fail_queued(reason or Reason("session_faulted", "the session keeps crashing"))
        elif command is SessionCommand.WITHDRAW_QUEUED_TURNS:
            for turn in list(session.turns.queued):
                session.turns.feed(turn, TurnEvent.DEADLINE_PASSED, reason)

    def _arm_backoff(self) -> None:
        session = self._session
        delay = session.crashes.delay_seconds(random.random())
        loop = asyncio.get_running_loop()
        self.quiet()
        self._cooling_timer = loop.call_later(delay, self._cooled)

    def _cooled(self) -> None:
        session = self._session
        if session.state is SessionState.COOLING:
            wanted = bool(session.turns.queued) and not session.around.is_stopping
            self.feed(SessionEvent.WAKE_DUE if wanted else SessionEvent.REST_DUE)

    def quiet(self) -> None:
        """No backoff ends any more."""
        if self._cooling_timer is not None:
            self._cooling_timer.cancel()
