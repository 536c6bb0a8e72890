"""What a server finds when it starts, and when a host is reached again: every session takes over its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pool.errors import HostUnavailable, PoolError
from pool.model import InstanceId, Reason, SessionKey
from pool.runtime.hosts import Host
from pool.runtime.reopening import Reopening
from pool.runtime.strangers import end_strangers
from pool.runtime.surroundings import Surroundings
from pool.store.base import InstanceRecord, OpenWork, SessionRecord

if TYPE_CHECKING:
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)
# how long a start waits for hosts that may not be reached
_OTHERS_SECONDS = 5.0


class Load(Protocol):
    """How the session of a row comes into memory."""

    async def __call__(self, record: SessionRecord, live: Sequence[InstanceRecord] = ()) -> Session:
        """The session; ``live`` are its instances that have not exited."""


class TakingOver:
    """Of one pool. ``forget_later`` is told of every instance that has ended."""

    def __init__(
        self,
        surroundings: Surroundings,
        sessions: Mapping[SessionKey, Session],
        load: Load,
        forget_later: Callable[[Host, InstanceId], None],
    ) -> None:
        self._around = surroundings
        self._sessions = sessions
        self._load = load
        self._forget_later = forget_later
        self._ways: dict[str, Reopening] = {}
        for host in surroundings.hosts:
            way = self._ways[host.name] = Reopening(surroundings, host, self._found)
            host.launcher.on_lost(way.lost)

    async def attach(self) -> None:
        """Take over what an earlier server left: here at once, on other hosts when they are reached.

        Raises ``KeeperUnavailable`` for this machine's keeper only.
        """
        hosts = self._around.hosts
        await hosts.load()
        here = hosts.here
        if here is not None:
            await self._ways[here.name].reach()
        await self._restore_all()
        others = [
            self._around.tasks.spawn(self._ways[host.name].reopen(), f"host:{host.name}")
            for host in hosts
            if not host.is_here
        ]
        if here is not None:
            await self._found(here)
        if others:
            await asyncio.wait(others, timeout=_OTHERS_SECONDS)

    async def _restore_all(self) -> None:
        work = await self._around.store.open_work()
        for item in work:
            host = await self._home_of(item)
            # Of all of them before anybody wakes: else a queued message takes the slot of one that runs.
            if item.instances:
                host.slots.adopt(item.session.key)
        await asyncio.gather(*(self._restore(item) for item in work))

    async def _home_of(self, item: OpenWork) -> Host:
        hosts, user = self._around.hosts, item.session.key.user_id
        try:
            return await hosts.placed(user, item.instances[-1].host if item.instances else None)
        except HostUnavailable:
            # Nobody can be asked yet, and nothing of theirs is anywhere.
            return await hosts.placed(user, hosts.first.name)

    async def _restore(self, work: OpenWork) -> None:
        key = work.session.key
        try:
            session = await self._load(work.session, work.instances)
        except PoolError:
            raise  # the database does not work: nobody can be taken over
        except Exception:  # noqa: BLE001 - one user's failure never stops the server
            _log.exception("session %s could not be loaded; its instance is ended", key)
            self._around.hosts.of(key.user_id).slots.release(key)
            return
        try:
            session.adoption.restore(work)
        except Exception as error:  # noqa: BLE001 - as above
            if session.instance is None:
                session.host.slots.release(key)
            _not_taken_over(session, error)

    async def _found(self, host: Host) -> None:
        """``host`` is reached (again): every session there takes over what it tells of its instance."""
        began = time.perf_counter()
        listings = host.listings
        sessions = [session for session in self._sessions.values() if session.host is host]
        known = {session.instance.id for session in sessions if session.instance is not None}
        await asyncio.gather(*(self._find_again(session) for session in sessions))
        if not host.was_found:
            host.was_found = True
            for instance_id in await end_strangers(self._around, host, known):
                self._forget_later(host, instance_id)
            self._around.counters.reconcile.observe(time.perf_counter() - began)
        for listing in listings.values():
            if listing.exit_status is not None:
                self._forget_later(host, listing.instance_id)

    @staticmethod
    async def _find_again(session: Session) -> None:
        try:
            await session.adoption.find_again()
        except Exception as error:  # noqa: BLE001 - one user's failure is nobody else's
            _not_taken_over(session, error)


def _not_taken_over(session: Session, error: Exception) -> None:
    _log.exception("session %s could not be taken over", session.key)
    session.adoption.failed(Reason("not_restored", f"it could not be taken over ({type(error).__name__})"))
