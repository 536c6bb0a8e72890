"""Asking an instance whether it answers, when there is cause for doubt."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pool.errors import InputBlocked, PoolError
from pool.model import Reason
from pool.policy.health import ANSWER_SECONDS, TRUST_SECONDS, Health, HealthFacts, judge_health
from pool.runtime.ending import end_at_once

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)
_CHEAPEST = "get_binary_version"


class Doubt:
    """The questions to one session's instance; one at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asked: Instance | None = None
        self._asked_at = 0.0

    @property
    def health(self) -> Health:
        """How the session's instance is, as far as is known; dead when there is none."""
        instance = self._session.instance
        if instance is None:
            return Health.DEAD
        waits = self._asked is instance
        return judge_health(
            HealthFacts(
                has_exited=instance.has_exited,
                is_reachable=self._session.host.is_reached and not instance.is_lost,
                unanswered_seconds=self._now() - self._asked_at if waits else None,
            )
        )

    def asks_first(self, instance: Instance) -> bool:
        """Must a message wait for an answer? A long silence is asked about before a turn is risked on it."""
        if self._asked is instance:
            return True
        if self._now() - instance.heard_at < TRUST_SECONDS:
            return False
        self.ask(instance)
        return True

    def ask(self, instance: Instance) -> None:
        """Ask the cheapest question; whoever does not answer it is wedged and ended."""
        if self._asked is not instance:
            self._asked, self._asked_at = instance, self._now()
            self._session.around.tasks.start(self._ask(instance), f"probe:{instance.id}")

    async def _ask(self, instance: Instance) -> None:
        session, is_wedged = self._session, False
        try:
            await instance.ask(_CHEAPEST, timeout_seconds=ANSWER_SECONDS)
        except (TimeoutError, InputBlocked):
            # What was held up in the keeper, or spoke meanwhile, is not wedged.
            is_wedged = not instance.is_held and instance.heard_at < self._asked_at
        except PoolError as error:
            # Unknown is not dead: its end, or its keeper's, is told by others.
            _log.info("instance %s could not be asked: %s", instance.id, error.code)
            return
        finally:
            if self._asked is instance:
                self._asked = None
        if instance is not session.instance or instance.has_exited:
            return
        if is_wedged:
            session.around.counters.wedged.add()
            end_at_once(session, instance, _reason())
        else:
            session.dispatch_next()
            session.log.flush()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _reason() -> Reason:
    message = f"the claude process lived but did not answer for {ANSWER_SECONDS:g} s; it was ended"
    return Reason("instance_wedged", message)
