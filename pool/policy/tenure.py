"""How long a replica may act as the owner of the pool, and when it asks for more.

The database's clock says when a lease ends for others. The owner cannot read
that clock without asking, and may be stopped at any moment. So it counts by
itself, from the moment at which the renewal in force was *sent*, and ends
earlier than the lease by a margin: whatever the answer took, and however long
it slept, it never believes to own for longer than the database does.

All times here are of one clock of the owner's, which goes on while it sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRules:
    """``lease_seconds``: for how long the database keeps the pool for an owner that is not heard of."""

    lease_seconds: float

    @property
    def renew_seconds(self) -> float:
        """From one renewal to the next."""
        return self.lease_seconds / 3

    @property
    def again_seconds(self) -> float:
        """From a renewal that was not answered to the next."""
        return min(1.0, self.lease_seconds / 15)

    @property
    def margin_seconds(self) -> float:
        """How much earlier than the lease the owner ends: clocks differ in speed, and an end takes time."""
        return self.lease_seconds / 5

    @property
    def look_seconds(self) -> float:
        """How often a stand-by looks whether the pool is free."""
        return min(1.0, self.lease_seconds / 10)


class Renewal(Enum):
    """What became of an attempt to renew."""

    GRANTED = "granted"
    REFUSED = "refused"
    """The lease is somebody else's: there is nothing to wait for."""
    UNANSWERED = "unanswered"
    """The database did not say; the lease in force is what it was."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """The ownership of one replica. ``sent_at``: when the request that is in force was sent."""

    rules: LeaseRules
    epoch: int
    sent_at: float
    is_over: bool = False
    tried_at: float | None = None

    @property
    def deadline(self) -> float:
        """From here on the owner must not act."""
        return self.sent_at + self.rules.lease_seconds - self.rules.margin_seconds

    def may_act(self, now: float) -> bool:
        """Is it still the owner, as far as it can know?"""
        return not self.is_over and now < self.deadline

    def renewed(self, outcome: Renewal, sent_at: float) -> Tenure:
        """After an attempt that was sent at ``sent_at``. An answer never makes the deadline earlier."""
        if self.is_over or outcome is Renewal.REFUSED:
            return replace(self, is_over=True)
        if outcome is Renewal.UNANSWERED:
            return replace(self, tried_at=sent_at)
        return replace(self, sent_at=max(self.sent_at, sent_at), tried_at=None)

    def seconds_to_next(self, now: float) -> float:
        """How long to wait before the next attempt; never beyond the deadline."""
        rules = self.rules
        at = self.sent_at + rules.renew_seconds
        if self.tried_at is not None:
            at = self.tried_at + rules.again_seconds
        return max(0.0, min(at, self.deadline) - now)
