"""What a session's next instance is started with: its arguments, environment and places."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from pool.launch.base import LaunchSpec
from pool.protocol.command_line import CliOptions, base_environment, build_args
from pool.workspace.workspaces import WorkspacePaths

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pool.runtime.instance import Instance
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
    options = CliOptions(
        session_uuid=cli_session,
        resume=resume,
        fork_from=fork_from,
        model=session.record.model or template.model,
        permission_mode=session.record.permission_mode,
        append_system_prompt=template.append_system_prompt,
        allowed_tools=tuple(template.allowed_tools),
        user_programs=session.around.tool_policy.allows_user_programs(session),
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
