"""All sessions of one pool: found or made, taken over after a restart, evicted, brought to an end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pool.errors import Conflict, NotFound, QuotaExceeded
from pool.launch.base import StopGraces
from pool.lifecycle.session import SessionEvent
from pool.model import (
    BEGINNING,
    InstanceId,
    Reason,
    SessionKey,
    SessionState,
    UserId,
)
from pool.runtime.capacity import Capacity
from pool.runtime.conformance.late import end_told_turns
from pool.runtime.hosts import Host
from pool.runtime.instance import Instance
from pool.runtime.mending import SpoiltRows, fault_of, mended
from pool.runtime.session import Session
from pool.runtime.surroundings import Surroundings
from pool.runtime.taking_over import TakingOver
from pool.store.base import InstanceRecord, PutSession, SessionRecord

_log = logging.getLogger(__name__)
_INTERRUPT_SECONDS = 0.5
# how long a stop waits for a database that takes nothing
_STORE_SECONDS = 5.0


class Supervisor:
    """Owner of every ``Session`` in memory."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.around = surroundings
        self.sessions: dict[SessionKey, Session] = {}
        self._loading: Counter[SessionKey] = Counter()
        self.on_user_busy: Callable[[UserId], None] = lambda _user: None
        surroundings.instance_ended = self.forget_later
        surroundings.store.on_spoilt = SpoiltRows(surroundings.counters).tell
        self._taking_over = TakingOver(surroundings, self.sessions, self.load, self.forget_later)
        for host in surroundings.hosts:
            capacity = Capacity(self.sessions, host)
            host.slots.evict = capacity.evict
            host.slots.candidates = capacity.candidates
            host.slots.leaving = capacity.leaving

    # --- sessions -----------------------------------------------------------------------

    def live_instances(self, user_id: UserId | None = None, host: Host | None = None) -> list[Instance]:
        """Every instance that has not exited: all, or those of a user, of a host."""
        return [
            instance
            for key, instance in self.around.live.items()
            if (session := self.sessions.get(key)) is not None
            and session.instance is instance
            and (user_id is None or key.user_id == user_id)
            and (host is None or session.host is host)
        ]

    async def find(self, key: SessionKey) -> Session | None:
        """The session, loaded from the store if need be; None when there is none."""
        session = self.sessions.get(key)
        if session is None:
            self._loading[key] += 1
            try:
                record = await self.around.store.get_session(key)
                session = await self.load(record) if record is not None else None
            finally:
                self._loading[key] -= 1
                self._loading += Counter()  # drops who is at zero
        if session is not None:
            session.adoption.tell_spoilt()
            session.used_at = self.around.clock.monotonic()
        return session

    def unload(self, session: Session) -> bool:
        """Drop a session that nothing needs from memory; not while somebody reads its rows."""
        if self._loading[session.key] or self.sessions.get(session.key) is not session:
            return False
        del self.sessions[session.key]
        session.quiet()
        session.log.close_settled()
        return True

    async def get(self, key: SessionKey) -> Session:
        """The session. Raises ``NotFound``."""
        session = await self.find(key)
        if session is None:
            raise NotFound(f"there is no session {key.session_id!r}")
        return session

    async def get_or_create(self, key: SessionKey, template: SessionRecord) -> tuple[Session, bool]:
        """The session, made from ``template`` if there is none: (session, was it made).

        Raises ``HostUnavailable``, ``QuotaExceeded`` at ``max_sessions`` and ``Conflict`` for an id
        that differs from another one only in case.
        """
        session = await self.find(key)
        if session is not None:
            return session, False
        limit = self.around.config.quotas.for_user(key.user_id).max_sessions
        if limit is not None and await self.around.store.count_sessions(key.user_id) >= limit:
            raise QuotaExceeded(
                f"quota exceeded: {key.user_id} may have {limit} sessions; archive one",
                details={"quota": "max_sessions", "limit": limit},
            )
        await self.around.hosts.placed(key.user_id)
        try:
            await self.around.store.commit([PutSession(template)])
        except Conflict:
            session = await self.find(key)
            if session is None:
                raise
            return session, False
        session = await self.get(key)
        return session, True

    async def load(self, record: SessionRecord, live: Sequence[InstanceRecord] = ()) -> Session:
        """The session of this row; ``live`` are its instances that have not exited."""
        await self.around.hosts.placed(record.key.user_id)
        number = await self.around.store.next_turn_number(record.key)
        exited = await self.around.store.exited_instances(record.key)
        message_ids = await self.around.store.message_ids(record.key)
        changes: dict[str, Any] = {}
        if record.spoilt:
            record, changes = await mended(self.around.store, record, [*exited, *live])
        # Several may have read the rows side by side: the first to come back makes the one object.
        loaded = self.sessions.get(record.key)
        if loaded is not None:
            return loaded
        session = self.sessions[record.key] = Session(record, self.around, number)
        if changes:
            session.adoption.spoilt = fault_of(["sessions"])
            session.patch(**changes)
        session.message_ids.update(message_ids)
        session.replay.spools |= {instance.ordinal: instance.instance_id for instance in exited}
        session.replay.silent |= {instance.ordinal for instance in exited if instance.offset == 0}
        return session

    # --- after a restart ------------------------------------------------------------------

    async def attach(self) -> None:
        """See ``TakingOver.attach``; nothing of a start that fails goes on."""
        try:
            await self._taking_over.attach()
        except BaseException:
            self.around.is_stopping = True
            await self.aclose()
            raise

    def forget_later(self, host: Host, instance_id: InstanceId) -> None:
        """Keep an ended instance's spool for replay, then remove it."""
        delay = self.around.config.delta_retention_seconds
        asyncio.get_running_loop().call_later(delay, self._forget, host, instance_id)

    def _forget(self, host: Host, instance_id: InstanceId) -> None:
        # Of a host that cannot be reached what has ended is forgotten after its return.
        if not self.around.is_stopping and host.is_reached:
            self.around.tasks.start(host.launcher.forget(instance_id), f"forget:{instance_id}")

    def features_changed(self) -> None:
        """It came out what the CLI can do: turns whose end it will not tell are ended."""
        end_told_turns(self.sessions.values())

    # --- the end -------------------------------------------------------------------------------

    async def stop_session(self, session: Session, reason: str) -> bool:
        """End the session's instance; True once every process is really gone.

        Queued turns are withdrawn, but when the whole server stops: then they wait for the next one.
        A stop that has begun goes to its end, also when its caller is cancelled.
        """
        stopping = self.around.tasks.spawn(self._stop_session(session, reason), f"stop:{session.key}")
        return await asyncio.shield(stopping)

    async def _stop_session(self, session: Session, reason: str) -> bool:
        if not self.around.is_stopping:
            session.interrupt(Reason("instance_stopped", f"the instance was stopped: {reason}"))
        was_starting = await session.waking.given_up()
        instance = session.instance
        if instance is None or instance.has_exited:
            return was_starting
        if session.turns.open_turn is not None:
            self.around.counters.kills.add("interrupt")
        session.turns.interrupt_open(Reason("instance_stopped", f"the instance was stopped: {reason}"))
        instance.told_to_stop(reason)
        grace = self.around.config.stop_grace_seconds
        await self._turn_over(session, instance, min(grace, _INTERRUPT_SECONDS))
        await instance.end(StopGraces(end_of_input=min(grace, 2.0), term=grace), reason)
        await _stored(session)
        return instance.has_exited

    @staticmethod
    async def _turn_over(session: Session, instance: Instance, seconds: float) -> None:
        """First rung of the ladder: the interrupted turn's own end, so that its transcript is whole."""
        deadline = asyncio.get_running_loop().time() + seconds
        while session.turns.open_turn is not None and not instance.has_exited:
            if asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(0.01)

    async def drain(self, timeout_seconds: float) -> None:
        """Let open turns end by themselves until the deadline; queued ones are kept for the next server."""
        self.around.is_stopping = True
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while asyncio.get_running_loop().time() < deadline:
            busy = [one for one in self.sessions.values() if one.turns.open_turn is not None]
            # one that cannot be reached is not waited for
            if not any(session.knows_instance() for session in busy):
                return
            await asyncio.sleep(0.02)

    async def end_all(self) -> None:
        """End every instance, side by side."""
        self.around.is_stopping = True
        sessions = list(self.sessions.values())
        await asyncio.gather(
            *(self.stop_session(session, "the server stops") for session in sessions),
            return_exceptions=True,
        )

    async def aclose(self) -> None:
        """Store what is left; no timer and no task of a session goes on."""
        for session in self.sessions.values():
            session.quiet()
        await self.around.tasks.aclose(timeout_seconds=2.0)
        await asyncio.gather(*(session.log.aclose() for session in self.sessions.values()))
        for session in self.sessions.values():
            for subscription in tuple(session.channel.subscriptions):
                subscription.close()

    async def forget_user(self, user_id: UserId) -> None:
        """Drop every session of a user from memory; their instances have ended."""
        for key in [key for key in self.sessions if key.user_id == user_id]:
            session = self.sessions.pop(key)
            session.quiet()
            for subscription in tuple(session.channel.subscriptions):
                subscription.close()
            await session.log.aclose()

    def archive(self, session: Session) -> None:
        """Take the session out of the list and stop its instance."""
        session.feed(SessionEvent.ARCHIVE_REQUESTED)
        session.log.flush()


def new_record(
    now: float, key: SessionKey, template: str, title: str | None, model: str | None, permission_mode: str
) -> SessionRecord:
    """The row of a session that is about to be made."""
    return SessionRecord(
        key=key,
        title=title or "",
        state=SessionState.PARKED,
        template=template,
        model=model,
        permission_mode=permission_mode,
        cli_session=None,
        created_at=now,
        last_active_at=now,
        position=BEGINNING,
    )


async def _stored(session: Session) -> None:
    """What it did last is in the database, unless that takes nothing: then the spool keeps it."""
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            await session.log.settled()
    except TimeoutError:
        _log.warning("session %s has ended; the database has not taken its last events", session.key)
