"""``ClaudeInstancePool``: the front door. Everything that a server or a program asks goes through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from pool.composition import Given, compose
from pool.config import PoolConfig
from pool.errors import Draining, PoolError
from pool.hosts.machines import Machines
from pool.lifecycle.session import SessionEvent
from pool.model import DEFAULT_SESSION, InstanceInfo, InstanceState, SessionState
from pool.names import check_name
from pool.runtime.checks import Checks
from pool.runtime.conformance.check import Conformance
from pool.runtime.counting import counts_refusals
from pool.runtime.dialogue import Dialogue
from pool.runtime.evidence import Evidence
from pool.runtime.exporting import export
from pool.runtime.pooled import PooledInstance
from pool.runtime.processes import HelperProcesses
from pool.runtime.session import Session
from pool.runtime.supervisor import Supervisor
from pool.runtime.turn_admission import TurnAdmission
from pool.runtime.watches.watches import Watches
from pool.store.accounts import Accounts
from pool.store.audit import AuditLog
from pool.store.usage import Usage


class ClaudeInstancePool(Dialogue, Evidence):
    """One live ``claude`` CLI per session, kept between messages, held to quotas, ended whole.

    Use it as an async context manager, or call ``start`` and ``shutdown``::

        async with ClaudeInstancePool(PoolConfig(data_dir=...)) as pool:
            instance = await pool.get_or_create_instance("alice")
            async for frame in instance.ask("hello"):
                ...
    """

    def __init__(self, config: PoolConfig, **given: Unpack[Given]) -> None:
        parts = compose(config, **given)
        self.config = config
        self.accounts: Accounts = parts.accounts
        self.usage: Usage = parts.usage
        self.audit: AuditLog = parts.audit
        self.machines: Machines = parts.machines
        self._personal = parts.personal
        self._around = parts.surroundings
        self._supervisor = Supervisor(parts.surroundings)
        self._admission = TurnAdmission(parts.surroundings)
        self._watches = Watches(self._supervisor, self._admission)
        self._helpers = HelperProcesses()
        self._checks = Checks(parts.surroundings, self._watches.checks)
        self._conformance = Conformance(parts.surroundings, self._supervisor.features_changed)
        self._is_draining = False
        self._is_started = False
        self._ending: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def start(self) -> None:
        """Open the store, attach to the keeper (started if none runs), take running instances over.

        Raises ``IsolationUnavailable`` and ``KeeperUnavailable``; nothing is
        left open then.
        """
        await self._around.store.open()
        self._conformance.load()
        try:
            await self._supervisor.attach()
        except BaseException:
            self._around.is_stopping = True
            await self._around.hosts.aclose(end_instances=False)
            await self._around.store.aclose()
            raise
        self._is_started = True
        self._admission.restore(self._supervisor.sessions.values())
        await self._watches.start()
        self._conformance.start()

    async def shutdown(
        self, *, end_instances: bool = True, drain_timeout_seconds: float | None = None
    ) -> None:
        """Admit nothing new, let turns end until the deadline, stop everything, store everything.

        Without ``end_instances`` (a reload) instances, keeper and gateway live
        on for the next server. What has begun goes to its end, also when the
        caller is cancelled; whoever calls again waits for that end.
        """
        if self._is_started:
            self._is_started = False
            self._is_draining = True
            self._ending = asyncio.create_task(
                self._shut_down(end_instances, drain_timeout_seconds), name="pool-shutdown"
            )
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _shut_down(self, end_instances: bool, drain_timeout_seconds: float | None) -> None:
        await self._watches.aclose()
        await self._conformance.aclose()
        if end_instances:
            timeout = (
                self.config.stop_grace_seconds if drain_timeout_seconds is None else drain_timeout_seconds
            )
            await self._supervisor.drain(timeout)
            await self._supervisor.end_all()
        self._around.is_stopping = True
        await self._supervisor.aclose()
        with contextlib.suppress(PoolError):
            await self._around.hosts.aclose(end_instances=end_instances)
        await self._around.store.aclose()
        self._helpers.aclose()

    async def upgrade(self, *, force: bool = False) -> Mapping[str, str]:
        """Have keeper and gateway go over to the installed code, without a cut turn; what became of each.

        See ``Launcher.upgrade``. Raises ``Conflict`` and ``KeeperUnavailable``.
        """
        return await self._around.hosts.upgrade(force=force)

    def drain(self) -> None:
        """Admit nothing new; what runs goes on."""
        self._is_draining = True

    def resume(self) -> None:
        """Admit work again."""
        self._is_draining = False

    @property
    def is_draining(self) -> bool:
        """Is new work refused?"""
        return self._is_draining

    # --- instances ------------------------------------------------------------------------

    @counts_refusals
    async def get_or_create_instance(
        self, user_id: str, session_id: str = DEFAULT_SESSION, *, template: str | None = None
    ) -> PooledInstance:
        """The session's live instance, started if there is none; single-flight per session.

        Raises ``QuotaExceeded``, ``PoolFull``, ``LaunchFailed``, ``HostUnavailable``, ``Draining``, …
        A failure leaves nothing behind; the next call tries again.
        """
        if self._is_draining or not self._is_started:
            raise Draining("the pool takes no new work", retry_after_seconds=10)
        key = self._key(user_id, session_id)
        session = await self._supervisor.find(key)
        if session is None:
            host = await self._around.hosts.placed(key.user_id)
            host.check()
            host.slots.check(key, may_wait=False)
            session, _made = await self._find_or_make(key, template, None, None, None)
        if session.instance is None and (refusal := self._watches.disk.refusal()) is not None:
            raise refusal
        instance = await session.waking.instance(may_wait=False)
        session.touch()
        return PooledInstance(self, session, instance)

    async def destroy_instance(self, user_id: str, session_id: str = DEFAULT_SESSION) -> bool:
        """End the session's instance; True once every process is really gone, False if there was none."""
        session = await self._supervisor.find(self._key(user_id, session_id))
        if session is None:
            return False
        self._helpers.end(session.key)
        return await self._supervisor.stop_session(session, "destroyed")

    async def stop_instance(self, instance_id: str) -> bool:
        """End one instance by its id; False when there is no such instance."""
        for instance in self._supervisor.live_instances():
            if instance.id == instance_id:
                return await self.destroy_instance(instance.key.user_id, instance.key.session_id)
        return False

    async def stop_user(self, user_id: str) -> None:
        """End every instance of a user."""
        user = self._key(user_id, DEFAULT_SESSION).user_id
        instances = self._supervisor.live_instances(user)
        await asyncio.gather(*(self.destroy_instance(user, item.key.session_id) for item in instances))

    async def forget_user(self, user_id: str, *, keep_workspace: bool = False) -> None:
        """End a user's instances, forget their sessions, remove workspace, home and transcripts.

        A workspace that is kept is moved to ``<data>/kept``: who gets the name later must not find it.
        The rows are the accounts' affair. Raises ``PoolError`` when something
        cannot be removed; calling it again goes on.
        """
        await self.stop_user(user_id)
        user = self._key(user_id, DEFAULT_SESSION).user_id
        await self._supervisor.forget_user(user)
        if keep_workspace:
            await asyncio.to_thread(self._around.workspaces.keep_aside, user)
        await asyncio.to_thread(self._around.workspaces.remove, user)
        self._around.hosts.forget(user)

    def instances(self, user_id: str | None = None) -> list[InstanceInfo]:
        """Every instance that has not exited, by name; those of this machine with figures from ``/proc``."""
        user = self._key(user_id, DEFAULT_SESSION).user_id if user_id is not None else None
        live = self._supervisor.live_instances(user)
        return [self._info(instance) for instance in sorted(live, key=lambda one: str(one.key))]

    def get_instance_stats(self, user_id: str) -> dict[str, Any] | None:
        """Figures of a user's instances, or None for a user without one.

        ``{"user_id", "instances": [instance objects], "total_instances",
        "turns", "rss_bytes", "cpu_seconds", "processes": [{"pid", "kind",
        "session_id"}], "process_count", "healthy"}``
        """
        check_name(user_id, "user_id")
        infos = self.instances(user_id)
        if not infos:
            return None
        helpers = self._helpers.of_user(user_id)
        return {
            "user_id": user_id,
            "instances": infos,
            "total_instances": len(infos),
            "turns": sum(info.turns for info in infos),
            "rss_bytes": sum(info.rss_bytes for info in infos),
            "cpu_seconds": sum(info.cpu_seconds for info in infos),
            "processes": [
                {"pid": process.pid, "kind": process.kind, "session_id": process.key.session_id}
                for process in helpers
            ],
            "process_count": len(infos) + len(helpers),
            "healthy": all(info.state is not InstanceState.STUCK for info in infos),
        }

    # --- helper processes ---------------------------------------------------------------------

    def register_process(
        self, user_id: str, session_id: str = DEFAULT_SESSION, *, pid: int, kind: str
    ) -> None:
        """Count a helper process (a terminal) to a session; it is ended with ``destroy_instance``.

        Raises ``BadRequest`` for a process that is not a descendant of ours.
        """
        self._helpers.ancestors.update(self._around.hosts.supervisor_pids())
        self._helpers.register(self._key(user_id, session_id), pid, kind)

    def unregister_process(self, user_id: str, session_id: str = DEFAULT_SESSION, *, pid: int) -> bool:
        """Count it no more; it is not ended. False when it was not registered."""
        return self._helpers.unregister(self._key(user_id, session_id), pid)

    # --- the rest -----------------------------------------------------------------------------

    def export_user(self, user_id: str) -> AsyncGenerator[bytes]:
        """All of a user's data as the pieces of a tar archive.

        Raises ``HostUnavailable``, and ``NotFound`` before the first piece.
        """
        name = check_name(user_id, "user_id")
        home = self.machines.home_of(name)
        if home is not None:
            self._around.hosts.named(home).check()
        return export(self._personal, self._around.workspaces, name)

    def isolation(self) -> tuple[str, str, Sequence[str]]:
        """(mode in force, network in force, remedies for what is missing)."""
        return self._around.hosts.isolation()

    def _viewer_arrived(self, session: Session) -> None:
        """Warm the session up for somebody who looks at it: from free slots only, never in line."""
        if self._is_draining or self._watches.disk.trouble or session.state is not SessionState.PARKED:
            return
        if session.record.cli_session is None or session.record.woken_for_viewer:
            return
        with contextlib.suppress(PoolError):
            if session.host.is_reached and session.host.slots.has_room(session.key):
                session.patch(woken_for_viewer=True)
                session.feed(SessionEvent.VIEWER_ARRIVED)
