"""How a session regains a live instance: by a launch, by adoption after a restart, after a keeper's death.

A launch is single-flight: whoever needs the instance while one is under way
waits for the same task and gets the same result or the same typed error.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING

from pool.errors import InstanceGone, PoolError, Refused
from pool.launch.base import LaunchSpec, StopGraces
from pool.lifecycle.instance import InstanceEvent
from pool.lifecycle.session import SessionEvent
from pool.model import ExitStatus, InstanceId, InstanceState, Reason, SessionState
from pool.protocol.command_line import CliOptions, base_environment, build_args
from pool.runtime.instance import Instance
from pool.store.base import InstanceRecord, PatchInstance, PutInstance
from pool.workspace.workspaces import WorkspacePaths

if TYPE_CHECKING:
    from pool.runtime.session import Session

_log = logging.getLogger(__name__)
_INGEST_SECONDS = 60.0
_ATTACH_SECONDS = 15.0


class Waking:
    """Gets a session its instance."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._task: asyncio.Task[Instance] | None = None
        self._may_wait = True

    @property
    def is_under_way(self) -> bool:
        """Is an instance being started?"""
        return self._task is not None

    # --- launch --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the one launch task; the session is ``waking``."""
        session = self._session
        assert self._task is None
        self._task = session.around.tasks.spawn(self._run(), f"wake:{session.key}")
        self._task.add_done_callback(_read_failure)

    async def instance(self, *, may_wait: bool) -> Instance:
        """The live instance, started if need be.

        Raises ``QuotaExceeded``, ``PoolFull``, ``LaunchFailed``, … The launch
        goes on when a caller is cancelled: others may wait for it.
        """
        session = self._session
        while True:
            if self._task is not None:
                return await asyncio.shield(self._task)
            instance = session.instance
            if instance is None or instance.has_exited:
                if session.state is not SessionState.LIVE:
                    session.around.slots.check(session.key, may_wait=may_wait)
                    self._may_wait = may_wait
                    session.revive()
                    if session.state is SessionState.COOLING:
                        session.feed(SessionEvent.WAKE_DUE)
                    elif session.state is SessionState.PARKED:
                        session.feed(SessionEvent.TURN_SUBMITTED)
                    continue
                raise InstanceGone(f"session {session.key} lost its instance")
            if instance.state in (InstanceState.READY, InstanceState.BUSY):
                return instance
            await instance.ended.wait()

    async def _run(self) -> Instance:
        session = self._session
        may_wait, self._may_wait = self._may_wait, True
        try:
            await session.around.slots.acquire(session.key, may_wait=may_wait)
        except Refused as error:
            self._task = None
            session.feed(SessionEvent.WAKE_REFUSED, Reason(error.code, error.message))
            session.log.flush()
            raise
        try:
            async with session.around.spawn_gate:
                instance = await self._launch()
        except BaseException as error:
            self._task = None
            self._launch_failed(error)
            raise
        self._task = None
        self._ready()
        return instance

    def _ready(self) -> None:
        session = self._session
        session.feed(SessionEvent.INSTANCE_READY)
        session.idleness.watch()
        session.log.flush()

    def _launch_failed(self, error: BaseException) -> None:
        session = self._session
        message = error.message if isinstance(error, PoolError) else "the launch was cancelled"
        details = error.details if isinstance(error, PoolError) else {}
        code = error.code if isinstance(error, PoolError) else "launch_failed"
        reason = Reason(code, message, details.get("exit_code"), details.get("signal"))
        session.instance = None
        session.around.slots.release(session.key)
        session.fail_queued(reason)
        session.feed(SessionEvent.INSTANCE_ENDED, reason)
        session.log.flush()

    async def _launch(self) -> Instance:
        session = self._session
        around = session.around
        paths = await asyncio.to_thread(
            around.workspaces.ensure, session.key.user_id, session.record.template
        )
        instance = self._new_instance()
        spec = self._spec(instance, paths)
        await session.log.settled()  # the intent is stored: a restart finds the child by its marker
        session.log.begin_instance(instance.id, instance.ordinal)
        session.replay.spools[instance.ordinal] = instance.id
        deadline = asyncio.get_running_loop().time() + around.config.start_timeout_seconds
        try:
            instance.handle = await around.launcher.start(spec, instance)
            self._note_identity(instance)
            left = deadline - asyncio.get_running_loop().time()
            await instance.handshake(max(left, 0.1))
        except BaseException:
            await asyncio.shield(self._abandon(instance))
            raise
        instance.machine.feed(InstanceEvent.HANDSHAKE_DONE)
        if session.turns.by_cli is not None:
            instance.machine.feed(InstanceEvent.TURN_STARTED)
        return instance

    def _new_instance(self) -> Instance:
        session = self._session
        around = session.around
        now = around.clock.wall()
        instance = Instance(
            InstanceId(uuid.uuid4().hex),
            session.key,
            session.record.next_ordinal,
            session,
            epoch=around.epoch,
            max_line_bytes=around.config.max_line_bytes,
            started_at=now,
        )
        session.instance = instance
        session.log.change(
            PutInstance(
                InstanceRecord(
                    instance_id=instance.id,
                    key=session.key,
                    ordinal=instance.ordinal,
                    state=InstanceState.STARTING,
                    epoch=around.epoch,
                    host="local",
                    isolation=around.launcher.describe_isolation()[0],
                    started_at=now,
                )
            )
        )
        session.patch(next_ordinal=instance.ordinal + 1)
        return instance

    def _spec(self, instance: Instance, paths: WorkspacePaths) -> LaunchSpec:
        session = self._session
        config = session.around.config
        template = session.around.workspaces.template(session.record.template)
        cli_session = session.record.cli_session
        resume = cli_session is not None and paths.has_transcript(cli_session)
        fork_from = session.record.resume_from if not resume else None
        if cli_session is None:
            cli_session = str(uuid.uuid4())
            session.patch(cli_session=cli_session)
        options = CliOptions(
            session_uuid=cli_session,
            resume=resume,
            fork_from=fork_from,
            model=session.record.model or template.model,
            permission_mode=session.record.permission_mode,
            append_system_prompt=template.append_system_prompt,
            allowed_tools=tuple(template.allowed_tools),
            extra_args=config.cli_extra_args,
        )
        return LaunchSpec(
            instance_id=instance.id,
            key=session.key,
            cli_args=build_args(options),
            env={**base_environment(), **template.env, **config.cli_env},
            workspace=paths.workspace,
            home=paths.home,
            labels={"user": session.key.user_id, "session": session.key.session_id},
        )

    def _note_identity(self, instance: Instance) -> None:
        identity = instance.handle.identity if instance.handle is not None else None
        if identity is not None:
            changes = {
                "pid": identity.pid,
                "start_ticks": identity.start_ticks,
                "boot_id": identity.boot_id,
                "state": InstanceState.READY,
            }
            self._session.log.change(PatchInstance(instance.id, changes))

    async def _abandon(self, instance: Instance) -> None:
        """A launch that failed leaves nothing behind."""
        await instance.end(StopGraces(end_of_input=0, term=1), "the launch failed")
        if not instance.has_exited and instance.handle is None:
            instance.exited(ExitStatus(), "")


def _read_failure(task: asyncio.Task[Instance]) -> None:
    if not task.cancelled():
        task.exception()
