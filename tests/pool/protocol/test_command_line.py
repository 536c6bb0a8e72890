"""The CLI's arguments: complete, and nothing from outside can become a flag."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import BadRequest
from pool.protocol.command_line import (
    DISALLOWED_TOOLS,
    TODO_TOOLS,
    CliOptions,
    base_environment,
    build_args,
    check_model,
)

UUID = "5f0c2a35-9a56-4ae0-9e0e-1d7a64f57a3a"
OTHER = "11111111-2222-4333-8444-555555555555"
NEW = CliOptions(session_uuid=UUID)

hostile = st.sampled_from(
    [
        "--dangerously-skip-permissions",
        "-p",
        "../../x",
        "/etc/passwd",
        'a"; id; "',
        "a\0b",
        "x" * 4096,
        "ü",
        "",
        " ",
        "a b",
        "a\n--flag",
        "Read,--flag",
        "Bash(a),--flag",
        f"{UUID}\n",
        f"{UUID} ",
    ]
)
not_canonical = st.sampled_from([f"{{{UUID}}}", UUID.replace("-", ""), f"urn:uuid:{UUID}", "default"])


def options_of(args: tuple[str, ...]) -> dict[str, str]:
    return {arg.partition("=")[0]: arg.partition("=")[2] for arg in args}


def test_programs_of_the_users_own_files_are_left_out_above_all_of_their_settings() -> None:
    assert "--managed-settings" not in options_of(build_args(NEW))
    args = build_args(replace(NEW, user_programs=False))
    options = options_of(args)
    assert json.loads(options["--managed-settings"])["allowManagedHooksOnly"] is True
    assert json.loads(options["--settings"])["apiKeyHelper"] == ""
    assert json.loads(options["--settings"])["crossSessionInbound"] == "refuse"
    assert "--strict-mcp-config" in args


@pytest.mark.parametrize("user_programs", [True, False])
def test_the_program_for_shell_commands_stands_above_all_of_their_settings(user_programs: bool) -> None:
    args = build_args(replace(NEW, user_programs=user_programs, shell_prefix="/opt/it"))
    settings = json.loads(options_of(args)["--settings"])
    assert settings["env"]["CLAUDE_CODE_SHELL_PREFIX"] == "/opt/it"
    assert ("LD_PRELOAD" in settings["env"]) != user_programs
    assert settings["crossSessionInbound"] == "refuse"


def test_a_new_session() -> None:
    args = build_args(NEW)
    assert args[:6] == (
        "--print",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool=stdio",
    )
    options = options_of(args)
    assert options["--session-id"] == UUID
    assert options["--permission-mode"] == "default"
    assert json.loads(options["--settings"]) == {"crossSessionInbound": "refuse"}
    assert options["--allowedTools"] == ",".join(TODO_TOOLS)
    assert options["--disallowedTools"] == ",".join(DISALLOWED_TOOLS)
    assert "--model" not in options
    assert "--resume" not in options


def test_a_resumed_session_and_a_fork() -> None:
    assert options_of(build_args(replace(NEW, resume=True)))["--resume"] == UUID
    assert "--session-id" not in options_of(build_args(replace(NEW, resume=True)))
    fork = options_of(build_args(replace(NEW, fork_from=OTHER)))
    assert (fork["--resume"], fork["--fork-session"], fork["--session-id"]) == (OTHER, "", UUID)


def test_what_a_template_may_add() -> None:
    options = replace(
        NEW,
        model="claude-sonnet-4-5[1m]",
        permission_mode="plan",
        append_system_prompt="--not a flag\nbut a prompt",
        allowed_tools=["Read", "Bash(git log:*)", "mcp__calc__add", "Read"],
        extra_args=["--max-turns", "50"],
    )
    args = build_args(options)
    given = options_of(args[:-2])
    assert given["--model"] == "claude-sonnet-4-5[1m]"
    assert given["--permission-mode"] == "plan"
    assert given["--append-system-prompt"] == "--not a flag\nbut a prompt"
    assert given["--allowedTools"].split(",")[4:] == ["Read", "Bash(git log:*)", "mcp__calc__add"]
    assert args[-2:] == ("--max-turns", "50")


@given(hostile | not_canonical)
def test_only_a_uuid_names_a_session(value: str) -> None:
    for options in (replace(NEW, session_uuid=value), replace(NEW, fork_from=value)):
        with pytest.raises(BadRequest):
            build_args(options)


@given(hostile)
def test_hostile_values_are_refused(value: str) -> None:
    for options in (replace(NEW, model=value), replace(NEW, permission_mode=value)):
        with pytest.raises(BadRequest):
            build_args(options)


@given(hostile.filter(lambda value: value != "x" * 4096))
def test_hostile_tool_rules_are_refused(value: str) -> None:
    for options in (replace(NEW, allowed_tools=[value]), replace(NEW, disallowed_tools=[value])):
        with pytest.raises(BadRequest):
            build_args(options)


@given(
    st.text(),
    st.none() | st.text(),
    st.text(),
    st.none() | st.text(),
    st.lists(st.text(), max_size=2),
    st.booleans(),
)
def test_whatever_is_given_every_argument_is_one_of_our_flags(
    session: str, model: str | None, mode: str, prompt: str | None, tools: list[str], resume: bool
) -> None:
    for chosen in (session, UUID):
        options = CliOptions(
            session_uuid=chosen,
            resume=resume,
            model=model,
            permission_mode="default" if chosen is UUID else mode,
            append_system_prompt=prompt,
            allowed_tools=tools,
        )
        try:
            args = build_args(options)
        except BadRequest:
            continue
        assert all(arg.startswith("--") and "\0" not in arg for arg in args)
        assert len({arg.split("=")[0] for arg in args}) == len(args)


def test_uppercase_uuids_are_the_same_session() -> None:
    assert options_of(build_args(replace(NEW, session_uuid=UUID.upper())))["--session-id"] == UUID


@pytest.mark.parametrize("value", [None, 7, ["opus"], b"opus"])
def test_a_model_is_text(value: Any) -> None:
    with pytest.raises(BadRequest):
        check_model(value)


def test_bypassing_permissions_is_not_a_mode_of_ours() -> None:
    with pytest.raises(BadRequest):
        build_args(replace(NEW, permission_mode="bypassPermissions"))


def test_the_environment_has_what_the_pool_relies_on_and_no_secret() -> None:
    environment = base_environment()
    assert environment["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"] == "1"
    assert environment["DISABLE_AUTOUPDATER"] == "1"
    assert environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert not any("KEY" in name or "TOKEN" in name for name in environment)
    # It would force the permission mode to default.
    assert "CLAUDE_CODE_SUBPROCESS_ENV_SCRUB" not in environment
    environment.clear()
    assert base_environment()
