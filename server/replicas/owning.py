"""The owner's hand on the lease: it renews in time, or ends this process image before anybody else owns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from pool import Fence, PoolLease, Renewal, Tenure
from pool.errors import StoreUnavailable
from server.replicas.alarm import Alarm, now

_log = logging.getLogger(__name__)

DEADLINE = "its lease was not renewed in time"
REFUSED = "its lease was another replica's already"
FENCED = "the database took nothing from it any more"


class Ownership:
    """From the lease that was taken to its end. ``start`` it once, ``aclose`` it once.

    ``come_back`` ends this image at once and has the next one stand by, given
    the reason: it must not return, and is called from any thread, and between
    any two instructions of the main one.
    """

    def __init__(self, lease: PoolLease, tenure: Tenure, come_back: Callable[[str], None]) -> None:
        self._lease = lease
        self._tenure = tenure
        self._come_back = come_back
        self._alarm = Alarm(self._rang)
        self._renewing: asyncio.Task[None] | None = None
        self._is_ending = False
        self.fence = Fence(tenure.epoch, tenure.rules.lease_seconds, lambda: self._lost(FENCED))

    @property
    def epoch(self) -> int:
        """The number of this ownership; each has a higher one than all before."""
        return self._tenure.epoch

    @property
    def seconds_left(self) -> float:
        """For how long it may act if it hears nothing more."""
        return max(0.0, self._tenure.deadline - now())

    def start(self) -> None:
        """Set the deadline, and renew from now on."""
        self._alarm.set(self._tenure.deadline)
        self._renewing = asyncio.create_task(self._renew_for_ever(), name="lease-renewal")

    async def has_successor(self) -> bool:
        """Does another replica stand by? No when the database does not say."""
        try:
            return await self._lease.others() > 0
        except StoreUnavailable:
            return False

    async def aclose(self) -> None:
        """Renew no more and give the lease back. After the last thing that an owner does."""
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
        self._is_ending = True
        self._alarm.close()
        try:
            await self._lease.give_back(self.epoch)
        except StoreUnavailable as error:
            _log.warning("the lease was not given back; it ends by itself: %s", error)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._tenure.seconds_to_next(now()))
            sent_at = now()
            try:
                outcome = Renewal.GRANTED if await self._lease.renew(self.epoch) else Renewal.REFUSED
            except StoreUnavailable as error:
                _log.warning(
                    "the lease was not renewed: %s", error, extra={"left": round(self.seconds_left, 1)}
                )
                outcome = Renewal.UNANSWERED
            self._tenure = self._tenure.renewed(outcome, sent_at)
            if not self._tenure.may_act(now()):
                self._lost(REFUSED if self._tenure.is_over else DEADLINE)
            self._alarm.set(self._tenure.deadline)

    def _rang(self) -> None:
        if not self._tenure.may_act(now()):
            self._lost(DEADLINE)

    def _lost(self, reason: str) -> None:
        if not self._is_ending:
            self._come_back(reason)
