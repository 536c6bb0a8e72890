"""What is written to the CLI in the background: messages, interrupts, refusals.

A message is written only when it is stored as dispatching to this very
instance: a restart writes it again to the same one, which ignores a uuid that
it has seen, and never to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from pool.errors import InputBlocked, InstanceGone, KeeperUnavailable, PoolError
from pool.lifecycle.instance import InstanceEvent
from pool.model import SessionState
from pool.protocol.connection import error_response
from pool.runtime.faults import pause_point
from pool.runtime.instance import Instance
from pool.runtime.turns import Turn
from pool.store.base import PatchInstance

if TYPE_CHECKING:
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)


class Delivery:
    """Writes to the live instance of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def next(self) -> None:
        """Give a ready and idle CLI the next queued turn."""
        session, instance = self._session, self._session.instance
        is_ready = instance is not None and instance.may_get_turn and session.turns.open_turn is None
        if instance is None or not is_ready or session.state is not SessionState.LIVE:
            return
        if session.turns.queued and not session.around.is_stopping:
            if session.idleness.recycle() or session.doubt.asks_first(instance):
                return
            if not session.around.running.may_begin(session):
                return
            session.around.running.began(session)
            session.turns.dispatch_first(instance.id)
            instance.machine.feed(InstanceEvent.TURN_STARTED)
            instance.turns += 1
            session.log.change(PatchInstance(instance.id, {"turns": instance.turns}))
        else:
            session.idleness.rest()

    def message(self, turn: Turn) -> None:
        """Write the turn's message once it is stored as dispatching."""
        instance = self._session.instance
        if instance is not None:
            self._start(self._message(turn, instance), f"dispatch:{self._session.key}")

    async def _message(self, turn: Turn, instance: Instance) -> None:
        session = self._session
        await session.log.settled()
        await pause_point("dispatch.before_write")
        if turn.state.is_terminal or turn.record.line is None:
            return
        try:
            await instance.write(turn.record.line)
        except InputBlocked as error:
            _log.error("instance %s does not read its input: %s", instance.id, error)
            session.stop_instance("it does not read its input")
        except (InstanceGone, KeeperUnavailable) as error:
            # its end is on its way
            _log.warning("turn %s could not be written: %s", turn.record.turn_id, error)
        except PoolError as error:
            # it lives and would be waited for in vain
            _log.error("turn %s could not be written, its instance is ended: %s", turn.record.turn_id, error)
            session.stop_instance("a message could not be given to it")
        await pause_point("dispatch.after_write")

    def interrupt(self, turn: Turn) -> None:
        """Ask the CLI to end the turn, its own queue included."""
        instance = self._session.instance
        if instance is not None:
            self._start(self._interrupt(instance), f"interrupt:{turn.record.turn_id}")

    async def _interrupt(self, instance: Instance) -> None:
        await self._session.log.settled()
        try:
            await instance.ask("interrupt", cancel_queued=True)
        except (PoolError, TimeoutError) as error:
            _log.warning("instance %s did not take an interrupt: %s", instance.id, error)

    def refuse(self, instance: Instance, request_id: str, subtype: str) -> None:
        """Answer a request that we do not serve with an error, or the turn would hang."""
        line = error_response(request_id, f"{subtype} is not served by this host")
        self._start(self._quietly(instance, line), f"refuse:{request_id}")

    def answer(self, line: bytes) -> None:
        """Write a stored answer again."""
        instance = self._session.instance
        if instance is not None:
            self._start(self._quietly(instance, line), f"answer:{self._session.key}")

    def decide(self, line: bytes) -> asyncio.Task[None]:
        """Write the answer to an approval once it is stored, whoever still waits for that."""
        self._session.permission_settled()
        work = self._decide(self._session.instance, line)
        return self._session.around.tasks.spawn(work, f"answer:{self._session.key}")

    async def _decide(self, instance: Instance | None, line: bytes) -> None:
        await self._session.log.settled()
        if instance is not None:  # else there is nothing left to approve
            with contextlib.suppress(PoolError):
                await instance.write(line)

    async def _quietly(self, instance: Instance, line: bytes) -> None:
        try:
            await instance.write(line)
        except PoolError as error:
            _log.warning("instance %s did not take an answer: %s", instance.id, error)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._session.around.tasks.start(work, name)
