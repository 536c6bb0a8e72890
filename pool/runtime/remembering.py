"""What a user allowed for a session: kept with it, and told to each of its instances."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pool.errors import PoolError
from pool.policy.kept_rules import kept_with, settings_of
from pool.policy.remembered import Remembered

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)


def remember(session: Session, agreed: Sequence[Remembered]) -> None:
    """Keep what was agreed to for the session; stored with the answer."""
    kept = kept_with(session.record.remembered, agreed)
    if kept != (session.record.remembered or kept_with(None, ())):
        session.patch(remembered=kept)


async def remind(session: Session, instance: Instance) -> None:
    """Tell a new instance what is kept, before its first turn. One that does not take it asks again."""
    settings = settings_of(session.record.remembered)
    if settings is None:
        return
    try:
        answer = await instance.ask("apply_flag_settings", settings=settings)
    except (PoolError, TimeoutError) as error:
        problem = type(error).__name__
    else:
        if answer.ok:
            return
        problem = "it refused"
    _log.warning("instance %s was not told what its session remembers: %s", instance.id, problem)
