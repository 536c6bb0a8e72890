"""Launches of one host are let through, or held while nothing can be started there."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pool.clock import Clock
from pool.errors import KeeperUnavailable, LaunchesPaused, LaunchFailed, PoolError
from pool.model import UserId
from pool.policy.breaker import Breaker, BreakerState

_log = logging.getLogger(__name__)
_NOT_THE_HOSTS = ("given_up", "stopped")


class Launches:
    """The breaker of a host. Who waits for it waits at most ``patience_seconds``."""

    def __init__(self, clock: Clock, patience_seconds: float) -> None:
        self.breaker = Breaker()
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._last_failure = ""

    @property
    def are_paused(self) -> bool:
        """Is nothing started now?"""
        return self.breaker.state is not BreakerState.CLOSED

    def check(self) -> None:
        """Raise ``LaunchesPaused`` while nothing is started and it is too early to see."""
        seconds = self.breaker.wait_seconds(self._clock.monotonic())
        if seconds > 0:
            raise self._paused(seconds)

    async def may_launch(self, *, may_wait: bool) -> None:
        """Return when a launch may begin; its end must be told. Raises ``LaunchesPaused``."""
        deadline = self._clock.monotonic() + (self._patience_seconds if may_wait else 0)
        while not self.breaker.may_launch(self._clock.monotonic()):
            seconds = max(self.breaker.wait_seconds(self._clock.monotonic()), 0.05)
            if self._clock.monotonic() + seconds > deadline:
                raise self._paused(seconds)
            await asyncio.sleep(seconds)

    def succeeded(self) -> None:
        """A launch that was let through gave a CLI that answers."""
        if self.are_paused:
            _log.info("claude starts again: launches are not paused any more")
        self.breaker.succeeded()

    def failed(self, user_id: UserId, error: PoolError) -> None:
        """A launch that was let through ended like this."""
        now, step = self._clock.monotonic(), error.details.get("step")
        if not isinstance(error, LaunchFailed | KeeperUnavailable) or step in _NOT_THE_HOSTS:
            self.breaker.given_up(now)
            return
        self._last_failure = f"{error.code}, step {step or 'none'}"
        if self.breaker.failed(user_id, now):
            more = {"code": error.code, "step": step, "seconds": self.breaker.wait_seconds(now)}
            _log.error("launches of several users failed: none is tried for a while", extra=more)

    def health(self) -> dict[str, Any]:
        """How the health page tells it."""
        if not self.are_paused:
            return {"ok": True, "detail": "instances start"}
        seconds = self.breaker.wait_seconds(self._clock.monotonic())
        return {
            "ok": False,
            "detail": f"launches of several users failed ({self._last_failure}); "
            f"the next try is in {seconds:.0f} s",
        }

    def _paused(self, seconds: float) -> LaunchesPaused:
        return LaunchesPaused(
            "claude cannot be started on this server at the moment; "
            f"it is tried again in {seconds:.0f} s, and an operator can see why",
            retry_after_seconds=max(1.0, seconds),
        )
