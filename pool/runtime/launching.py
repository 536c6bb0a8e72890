"""What a session's next instance is started with: its arguments, environment and places."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from pool.launch.base import LaunchSpec
from pool.launch.tool_limits import ToolLimits
from pool.model import InstanceId, InstanceState
from pool.protocol.command_line import SHELL_PREFIX, CliOptions, base_environment, build_args
from pool.runtime import auditing
from pool.runtime.instance import Instance
from pool.store.base import InstanceRecord, PatchInstance, PutInstance
from pool.workspace.workspaces import WorkspacePaths

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pool.runtime.session import Session


def launch_spec(session: Session, instance: Instance, paths: WorkspacePaths) -> LaunchSpec:
    """Everything that the launcher needs; the session's conversation gets its id here if it has none."""
    config = session.around.config
    template = session.around.workspaces.template(session.record.template)
    cli_session = session.record.cli_session
    if cli_session is not None and paths.is_spoilt(cli_session):
        _log.warning(
            "the transcript of session %s holds no message; its conversation begins anew", session.key
        )
        cli_session = None
    resume = cli_session is not None and paths.has_transcript(cli_session)
    fork_from = session.record.resume_from if not resume else None
    if cli_session is None:
        cli_session = str(uuid.uuid4())
        session.patch(cli_session=cli_session)
    limits, prefix = _tool_limits(session)
    options = CliOptions(
        session_uuid=cli_session,
        resume=resume,
        fork_from=fork_from,
        model=session.record.model or template.model,
        permission_mode=session.record.permission_mode,
        append_system_prompt=template.append_system_prompt,
        allowed_tools=tuple(template.allowed_tools),
        user_programs=session.around.tool_policy.allows_user_programs(session),
        shell_prefix=prefix,
        extra_args=config.cli_extra_args,
    )
    own = {} if prefix is None else {SHELL_PREFIX: prefix}
    return LaunchSpec(
        instance_id=instance.id,
        key=session.key,
        cli_args=build_args(options),
        env={**base_environment(), **template.env, **config.cli_env, **own},
        workspace=paths.workspace,
        home=paths.home,
        network=template.network,
        labels={"user": session.key.user_id, "session": session.key.session_id},
        uid=paths.uid,
        tool_limits=limits,
    )


def _tool_limits(session: Session) -> tuple[ToolLimits | None, str | None]:
    around = session.around
    limits = ToolLimits.of(around.config.quotas.for_user(session.key.user_id))
    # a CLI that calls the program in another way could run no command at all
    if limits is None or not around.features.tool_limits:
        return None, None
    return limits, session.host.launcher.tool_prefix(limits)


def new_instance(session: Session) -> Instance:
    """The session's next instance; the intent to start it is on its way to the store."""
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
        started_clock=around.clock.monotonic(),
    )
    instance.on_stuck = session.instance_stuck
    instance.is_held = session.log.is_held
    session.set_instance(instance)
    session.log.change(
        PutInstance(
            InstanceRecord(
                instance_id=instance.id,
                key=session.key,
                ordinal=instance.ordinal,
                state=InstanceState.STARTING,
                epoch=around.epoch,
                host=session.host.name,
                isolation=session.host.launcher.describe_isolation()[0],
                started_at=now,
                started_clock=instance.started_clock,
            )
        ),
        auditing.instance_spawned(session, instance),
    )
    session.patch(next_ordinal=instance.ordinal + 1)
    return instance


def note_identity(session: Session, instance: Instance) -> None:
    """Store which process it is, so that a restart cannot take another one for it."""
    identity = instance.handle.identity if instance.handle is not None else None
    if identity is not None:
        changes = {
            "pid": identity.pid,
            "start_ticks": identity.start_ticks,
            "boot_id": identity.boot_id,
            "state": InstanceState.READY,
        }
        session.log.change(PatchInstance(instance.id, changes))
