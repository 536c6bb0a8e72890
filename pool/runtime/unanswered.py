"""A start that the host has not answered: nobody knows whether there is a process.

Unknown is not dead. Until the host says that nothing of it is there, or is
found dead with all that it held, its slot stays taken and it counts as stuck.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import chain, repeat
from typing import TYPE_CHECKING

from pool.errors import InstanceGone, KeeperUnavailable, PoolError
from pool.launch.base import InstanceHandle, StopGraces
from pool.model import ExitStatus

if TYPE_CHECKING:
    from pool.runtime.hosts import Host
    from pool.runtime.instance import Instance
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)
_AGAIN_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0)
_ANSWER_SECONDS = 20.0


class UnansweredStart(InstanceHandle):
    """All that can be done with it is to end it."""

    def __init__(self, host: Host, instance: Instance) -> None:
        self.instance_id = instance.id
        self.identity = None
        self.isolation = "unknown"
        self._host = host
        self._instance = instance

    async def stop(self, graces: StopGraces) -> None:
        """Have the host end what there may be; ``exited`` is told when nothing is."""
        try:
            is_gone = await self._host.launcher.abandon(self.instance_id)
        except KeeperUnavailable:
            if not self._host.is_here:
                # The way to it is lost: it is looked for with all that runs there, when it is found.
                self._instance.is_lost = True
                raise
            is_gone = True  # it took everything with it
        if is_gone:
            self._instance.exited(ExitStatus(), "")

    async def write(self, line: bytes, *, timeout_seconds: float = 30.0) -> None:
        """See ``InstanceHandle``."""
        raise self._gone()

    def committed(self, offset: int) -> None:
        """See ``InstanceHandle``; nothing was printed."""

    def hold(self, is_held: bool) -> None:
        """See ``InstanceHandle``; nothing comes."""

    def trim(self, offset: int) -> None:
        """See ``InstanceHandle``; nothing is kept."""

    async def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """See ``InstanceHandle``."""
        raise self._gone()

    async def stderr_tail(self) -> str:
        """See ``InstanceHandle``."""
        return ""

    async def signal(self, name: str) -> None:
        """See ``InstanceHandle``."""
        raise self._gone()

    def _gone(self) -> InstanceGone:
        return InstanceGone(f"the start of instance {self.instance_id} was not answered")


def see_to_its_end(session: Session, instance: Instance) -> None:
    """Ask the host again and again until it is known to be gone."""
    session.around.tasks.start(_end(session, instance), f"unanswered:{instance.id}")


async def _end(session: Session, instance: Instance) -> None:
    for seconds in chain(_AGAIN_SECONDS, repeat(_AGAIN_SECONDS[-1])):
        await asyncio.sleep(seconds)
        if instance.has_exited or instance.handle is None or session.around.is_stopping:
            return
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await instance.handle.stop(StopGraces(end_of_input=0, term=0))
        except (TimeoutError, PoolError):
            _log.error("whether instance %s was started is not known: its host does not answer", instance.id)
