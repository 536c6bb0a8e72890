"""Which sessions give their slot up because an approval of theirs was not answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pool.model import SessionKey, UserId


@dataclass(frozen=True, slots=True)
class Held:
    """A session whose turn waits for an approval, for ``seconds`` (of its youngest one)."""

    key: SessionKey
    seconds: float


def choose_holders(
    waiting: Sequence[UserId], at_own_limit: Collection[UserId], held: Sequence[Held], leaving: int
) -> list[SessionKey]:
    """The sessions to give up, one for each waiter whom that helps; who waited longest for an answer first.

    A waiter at a limit of their own is helped by a session of theirs only.
    ``leaving`` slots are about to come free for the first in line.
    """
    left = sorted(held, key=lambda item: -item.seconds)
    chosen = []
    for user in waiting[leaving:]:
        helpful = (item for item in left if user not in at_own_limit or item.key.user_id == user)
        victim = next(helpful, None)
        if victim is not None:
            left.remove(victim)
            chosen.append(victim.key)
    return chosen
