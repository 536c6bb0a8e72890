"""The arguments and the environment of a pooled CLI.

Every value that comes from outside goes into one argument together with its
flag (``--resume=UUID``) and is checked, so that none can be taken for a flag
of its own. No secret is ever an argument.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pool.errors import BadRequest
from pool.protocol.encoding import encode

PERMISSION_MODES = ("default", "acceptEdits", "plan", "auto", "dontAsk")
"""The modes that a pooled CLI may be in; bypassPermissions is not among them."""

DISALLOWED_TOOLS = (
    # Reach other processes and machines, past the walls between users.
    "SendMessage",
    "ListAgents",
    "RemoteTrigger",
    "PushNotification",
    "DesignSync",
    # Begin turns by themselves, hours later, in a process that may be parked by then.
    "CronCreate",
    "CronDelete",
    "CronList",
    "ScheduleWakeup",
    # Move the process out of the directory that the server watches over.
    "EnterWorktree",
    "ExitWorktree",
)
"""Tools that the model is not offered, because a server must not run them."""

TODO_TOOLS = ("TaskCreate", "TaskUpdate", "TaskList", "TaskGet")
"""The todo list; a headless CLI has it only if it is named."""

SETTINGS = {"crossSessionInbound": "refuse"}
"""Settings over all others: no message of another process starts a turn here."""

HELPERS = ("apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "gcpAuthRefresh", "otelHeadersHelper")
"""Settings that name a program which the CLI runs by itself."""

SHELL_PREFIX = "CLAUDE_CODE_SHELL_PREFIX"
"""The variable that names a program by which the CLI runs every shell command: one argument, the command."""

# Variables of a settings file by which every shell of the Bash tool would run something first.
_SHELL_VARIABLES = ("BASH_ENV", "ENV", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", SHELL_PREFIX)

# Of the operator's tier, so that no settings file of a user can say otherwise.
_NO_OWN_PROGRAMS = {"allowManagedHooksOnly": True, "disableSkillShellExecution": True}

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,199}", re.ASCII)
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_*-]{0,127}", re.ASCII)
_TOOL_RULE = re.compile(r"\([^(),\x00-\x1f]{0,1000}\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CliOptions:
    """How one instance is to be started.

    ``session_uuid`` is the CLI's own session: new, or with ``resume`` the one
    to go on with (a new one that exists already, and a resumed one that does
    not, end the CLI at once). ``fork_from`` makes ``session_uuid`` a new
    session with the history of that one. ``user_programs`` False: the CLI
    starts no program by itself because a file of the user says so: no shell
    hook, no MCP server, no shell line of a skill or command, none of
    ``HELPERS``. Hooks registered at ``initialize`` stay (measured).
    ``shell_prefix`` is the program that runs every shell command, whatever a
    settings file of the user says; it belongs into the environment too.
    ``extra_args`` are the operator's and are taken as they are.
    """

    session_uuid: str
    resume: bool = False
    fork_from: str | None = None
    model: str | None = None
    permission_mode: str = "default"
    append_system_prompt: str | None = None
    allowed_tools: Sequence[str] = ()
    disallowed_tools: Sequence[str] = DISALLOWED_TOOLS
    user_programs: bool = True
    shell_prefix: str | None = None
    extra_args: Sequence[str] = ()


def build_args(options: CliOptions) -> tuple[str, ...]:
    """The arguments after the program's name. Raises ``BadRequest`` for a value that is not safe."""
    args = [
        "--print",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool=stdio",
        *_session_args(options),
        *_settings_args(options),
        f"--permission-mode={check_permission_mode(options.permission_mode)}",
        f"--allowedTools={_tools((*TODO_TOOLS, *options.allowed_tools))}",
    ]
    if options.disallowed_tools:
        args.append(f"--disallowedTools={_tools(options.disallowed_tools)}")
    if options.model is not None:
        args.append(f"--model={check_model(options.model)}")
    if options.append_system_prompt:
        if "\0" in options.append_system_prompt:
            raise BadRequest("append_system_prompt must not contain NUL")
        args.append(f"--append-system-prompt={options.append_system_prompt}")
    return (*args, *options.extra_args)


def base_environment() -> dict[str, str]:
    """What every pooled CLI has in its environment, beside what the launcher sets.

    Not here: ``CLAUDE_CODE_SUBPROCESS_ENV_SCRUB``, which would hide the model
    key from the tools but forces the permission mode to ``default``
    (measured). There is no key to hide: the gateway has it.
    """
    return {
        # "No more turns owed" is only told with this; see cli-protocol section 0.
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        # A pool runs one pinned version: hidden parts of the protocol change between versions.
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_BUG_COMMAND": "1",
        # Cron jobs would begin turns in a process that may be parked by then.
        "CLAUDE_CODE_DISABLE_CRON": "1",
        # A revoked key is tried again as well: ten times would look like a hang of minutes, five
        # (18 s) outlast a restart of the gateway.
        "CLAUDE_CODE_MAX_RETRIES": "5",
    }


def check_session_uuid(value: object) -> str:
    """A UUID in its canonical form. Raises ``BadRequest``."""
    try:
        if isinstance(value, str) and str(UUID(value)) == value.lower():
            return value.lower()
    except ValueError:
        pass
    raise BadRequest("a CLI session is named by a UUID", details={"field": "session_uuid"})


def check_model(value: object) -> str:
    """A model's name that can stand in an argument. Raises ``BadRequest``."""
    if isinstance(value, str) and _MODEL.fullmatch(value):
        return value
    raise BadRequest(
        "model must be a name of letters, digits and . _ : / @ [ ] -", details={"field": "model"}
    )


def check_permission_mode(value: object) -> str:
    """One of ``PERMISSION_MODES``. Raises ``BadRequest``."""
    if isinstance(value, str) and value in PERMISSION_MODES:
        return value
    raise BadRequest(
        f"permission_mode must be one of {', '.join(PERMISSION_MODES)}", details={"field": "permission_mode"}
    )


def _session_args(options: CliOptions) -> list[str]:
    session = check_session_uuid(options.session_uuid)
    if options.fork_from is not None:
        origin = check_session_uuid(options.fork_from)
        return [f"--resume={origin}", "--fork-session", f"--session-id={session}"]
    return [f"--resume={session}"] if options.resume else [f"--session-id={session}"]


def _settings_args(options: CliOptions) -> list[str]:
    prefix = {} if options.shell_prefix is None else {SHELL_PREFIX: options.shell_prefix}
    if options.user_programs:
        variables = {"env": prefix} if prefix else {}
        return [f"--settings={encode({**SETTINGS, **variables}).decode()}"]
    env = {**dict.fromkeys(_SHELL_VARIABLES, ""), **prefix}
    return [
        f"--settings={encode({**SETTINGS, **dict.fromkeys(HELPERS, ''), 'env': env}).decode()}",
        f"--managed-settings={encode(_NO_OWN_PROGRAMS).decode()}",
        "--strict-mcp-config",
    ]


def _tools(rules: Sequence[str]) -> str:
    for rule in rules:
        name = _TOOL_NAME.match(rule)
        if name is None or (name.end() != len(rule) and not _TOOL_RULE.fullmatch(rule, name.end())):
            raise BadRequest("a tool rule must look like Name or Name(pattern)", details={"rule": rule[:100]})
    return ",".join(dict.fromkeys(rules))
