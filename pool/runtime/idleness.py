"""When a session may rest: one timer a session, so that the cost does not grow with idle users."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pool.launch.base import StopGraces

if TYPE_CHECKING:
    from pool.runtime.session import Session


class Idleness:
    """Parks one session after its idle timeout."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._timer: asyncio.TimerHandle | None = None
        self.since = session.around.clock.monotonic()

    def touch(self) -> None:
        """The user was here: the time begins anew."""
        self.since = self._session.around.clock.monotonic()
        self.watch()

    def watch(self) -> None:
        """Look again when the timeout is over; a timeout of 0 means never."""
        self.stop()
        timeout = self._session.around.config.idle_timeout_seconds
        if self._session.instance is not None and timeout > 0:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._over)

    def rest(self) -> None:
        """There is nothing to do: the time runs, and whoever waits for a slot may have this one's."""
        self.watch()
        if self._session.is_idle:
            self._session.around.slots.look_again()

    def stop(self) -> None:
        """No timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        if self._session.is_idle:
            self.park("idle")
        else:
            self.watch()

    def park(self, reason: str) -> None:
        """Give the instance up; the conversation is kept. Nothing is dispatched to it from here on."""
        session = self._session
        instance = session.instance
        if instance is None or instance.has_exited:
            return
        instance.told_to_stop(reason)
        graces = StopGraces(end_of_input=2.0, term=session.around.config.stop_grace_seconds)
        session.around.tasks.start(instance.end(graces, reason), f"park:{instance.id}")
