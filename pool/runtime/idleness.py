"""When a session may rest: one timer a session, so that the cost does not grow with idle users.

An instance rests when nobody used it for a while, and when it is old: then
between two turns, never within one. Both times go on over a restart of the
server, by the monotonic clock: whoever sets the wall clock, and whatever the
machine slept, parks nobody early and keeps nobody for ever.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from pool.launch.base import StopGraces
from pool.runtime.faults import pause_point

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session


class Idleness:
    """Parks one session after its idle timeout, and an old instance as soon as it has nothing to do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._timer: asyncio.TimerHandle | None = None
        self.since = session.around.clock.monotonic()
        self._birth: tuple[str, float] | None = None

    def touch(self) -> None:
        """The user was here: the time begins anew."""
        self.since = self._session.around.clock.monotonic()
        self._session.patch(active_clock=self.since)
        self.watch()

    def go_on(self) -> None:
        """An instance of an earlier server was taken over: what it was idle until now counts."""
        before, now = self._session.record.active_clock, self._session.around.clock.monotonic()
        self.since = min(before, now) if before is not None else now
        self.watch()

    def watch(self) -> None:
        """Look again when the timeout is over; a timeout of 0 means never."""
        idle = self._session.around.clock.monotonic() - self.since
        self._arm(max(0.0, min(self._timeout() - idle, self._life_left())))

    def rest(self) -> None:
        """There is nothing to do: the time runs, and whoever waits for a slot may have this one's."""
        self.watch()
        if self._session.is_idle:
            self._session.host.slots.look_again()

    def recycle(self) -> bool:
        """Park a worn instance that has served somebody, so that what is queued goes to a new one."""
        instance = self._session.instance
        if instance is None or not instance.turns or instance.background:
            return False
        most = self._session.around.config.recycle_turns
        why = None
        if self._life_left() <= 0:
            why = "it was old"
        elif 0 < most <= instance.turns:
            why = f"it had served {instance.turns} turns"
        if why is not None:
            self.park(why)
        return why is not None

    def stop(self) -> None:
        """No timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        if not self._session.is_idle:
            self._arm(self._timeout())  # not by its age: at the end of its work somebody looks again
        elif self._life_left() <= 0:
            self.park("it was old")
        else:
            self.park("idle")

    def _timeout(self) -> float:
        return self._session.around.config.idle_timeout_seconds or math.inf

    def _life_left(self) -> float:
        """Seconds until the instance is too old; infinite when it never is."""
        instance, around = self._session.instance, self._session.around
        if instance is None or around.config.max_age_seconds <= 0:
            return math.inf
        if self._birth is None or self._birth[0] != instance.id:
            now = around.clock.monotonic()
            # Rows of an older version have only the wall clock; it is asked once, from then on it may jump.
            age = max(0.0, around.clock.wall() - instance.started_at)
            began = instance.started_clock if instance.started_clock is not None else now - age
            self._birth = (instance.id, min(began, now))
        return self._birth[1] + around.config.max_age_seconds - around.clock.monotonic()

    def _arm(self, seconds: float) -> None:
        self.stop()
        if self._session.instance is not None and seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._over)

    def park(self, reason: str) -> None:
        """Give the instance up; the conversation is kept. Nothing is dispatched to it from here on."""
        session = self._session
        instance = session.instance
        if instance is None or instance.has_exited:
            return
        instance.told_to_stop(reason)
        graces = StopGraces(end_of_input=2.0, term=session.around.config.stop_grace_seconds)
        session.around.tasks.start(self._end(instance, graces, reason), f"park:{instance.id}")

    @staticmethod
    async def _end(instance: Instance, graces: StopGraces, reason: str) -> None:
        """The second phase: what comes for the session from the decision on waits for its next instance."""
        await pause_point("park.before_stop")
        await instance.end(graces, reason)
