"""An approval that nobody answers gives its slot to somebody who waits for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pool.launch.base import StopGraces
from pool.model import InstanceState, Reason, SessionKey
from pool.policy.holds import Held, choose_holders
from pool.runtime.instance import Instance
from pool.runtime.session import Session
from pool.runtime.slots import Slots
from pool.runtime.supervisor import Supervisor

_log = logging.getLogger(__name__)


class Holds:
    """Notes how old approvals are, over restarts too, and gives some up when somebody waits."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._around = supervisor.around
        self._asked: dict[tuple[SessionKey, str], float] = {}

    async def look(self) -> None:
        """Give up as many sessions as there are waiters whom that helps."""
        hold = self._around.config.approval_hold_seconds
        if hold <= 0:
            return
        held = [held for held in self._held() if held.seconds >= hold]
        for host in self._around.hosts:
            there = [one for one in held if self._supervisor.sessions[one.key].host is host]
            self._give_up_some(host.slots, there, hold)

    def _give_up_some(self, slots: Slots, held: Sequence[Held], hold: float) -> None:
        waiting = slots.waiting_users()
        at_limit = {user for user in waiting if slots.is_at_own_limit(user)} if held else set()
        for key in choose_holders(waiting, at_limit, held, len(slots.leaving())):
            session = self._supervisor.sessions[key]
            if session.instance is not None:
                self._give_up(session, session.instance, hold)

    def _held(self) -> list[Held]:
        """Every live session of which an approval is open, with the age of its youngest one."""
        found, seen = [], set()
        now, wall = self._around.clock.monotonic(), self._around.clock.wall()
        for instance in self._supervisor.live_instances():
            session = self._supervisor.sessions[instance.key]
            asks = session.approvals.open() if instance.state is InstanceState.BUSY else []
            for ask in asks:
                at = (instance.key, ask.request_id)
                seen.add(at)
                self._asked.setdefault(at, now - max(0.0, wall - ask.asked_at))
            if asks and not instance.background and not instance.is_lost:
                youngest = max(self._asked[instance.key, ask.request_id] for ask in asks)
                found.append(Held(instance.key, now - youngest))
        for gone in self._asked.keys() - seen:
            del self._asked[gone]
        return found

    def _give_up(self, session: Session, instance: Instance, hold: float) -> None:
        message = f"nobody answered within {hold:g} s, and somebody waits for the place; ask again to go on"
        _log.info(
            "approval expired",
            extra={"user": session.key.user_id, "session": session.key.session_id, "instance": instance.id},
        )
        instance.told_to_stop("an approval was not answered and somebody waits")
        session.turns.interrupt_open(Reason("approval_expired", message))
        session.approvals.close_all()
        session.log.flush()
        self._around.tasks.start(self._end(session, instance), f"give-up:{instance.id}")

    async def _end(self, session: Session, instance: Instance) -> None:
        """The ladder from its first rung: the interrupted turn's own end, then the end of input."""
        grace = self._around.config.stop_grace_seconds
        deadline = asyncio.get_running_loop().time() + grace
        while session.turns.open_turn is not None and not instance.has_exited:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.02)
        graces = StopGraces(end_of_input=2.0, term=grace)
        await instance.end(graces, "an approval was not answered and somebody waits")
