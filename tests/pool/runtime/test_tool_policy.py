"""The tool policy with the CLI itself and its fake: nothing that a tool can write changes a decision."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pool.config import PoolConfig, QuotaBook
from pool.errors import BadRequest, PoolError
from pool.model import SessionId, SessionKey, UserId
from pool.policy.rules.decision import NO_DECISION, Decision, Kind
from pool.protocol.frames import ControlRequest
from pool.runtime.counting import Counters
from pool.runtime.tool_policy import ToolPolicy, hook_output
from pool.workspace.templates import Template, TemplateRules
from tests.e2e.site import Client, Site, client, serving
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")

REFUSED = "The policy of this server does not permit this"
RULES = {
    "security__allowed_commands": ["mkdir made*", "sleep 1"],
    "security__denied_commands": ["touch *"],
    "security__denied_paths": ["secret.txt"],
}
Scene = tuple[Site, Client, Callable[[str], str]]
Serve = Callable[..., AbstractAsyncContextManager[Scene]]


# The real CLI's own story of each run is `test_no_settings_file_written_meanwhile_changes_a_decision`.
@pytest.fixture(params=[pytest.param("real", marks=[pytest.mark.real_cli, pytest.mark.acceptance]), "fake"])
def serve(request: pytest.FixtureRequest, short_dir: Path, fake_claude: Path) -> Serve:
    """``serve(**settings)``: a site, a viewer of alice's session, and the words that run a command."""
    kind: str = request.param
    cli = request.getfixturevalue("real_cli") if kind == "real" else fake_claude
    words = "run `{}`" if kind == "real" else "bash {}"

    @asynccontextmanager
    async def scene(**settings: Any) -> AsyncIterator[Scene]:
        async with serving(short_dir, cli, **(settings or RULES)) as site:
            token = await site.add_user("alice")
            async with client(site, token) as viewer:
                await viewer.subscribe()
                yield site, viewer, words.format

    return scene


async def run(viewer: Client, text: str, decision: str = "deny") -> tuple[list[dict[str, Any]], str]:
    """One turn: (the approvals that were asked for, all of which get ``decision``; the tools' results)."""
    start = len(viewer.frames)
    turn = await viewer.send(text)
    answered: set[str] = set()

    async def is_over() -> bool:
        for ask in viewer.of_type("permission_request"):
            if ask in viewer.frames[start:] and ask["request_id"] not in answered:
                answered.add(ask["request_id"])
                await viewer.put(type="permission", request_id=ask["request_id"], decision=decision)
        return viewer.states(turn)[-1:] == ["succeeded"]

    await eventually(is_over, 30, what=f"turn {viewer.states(turn)}")
    asks = [frame for frame in viewer.frames[start:] if frame["type"] == "permission_request"]
    return asks, results(viewer, start)


def results(viewer: Client, start: int) -> str:
    """The text of every tool result from frame number ``start`` on."""
    events = [frame["event"] for frame in viewer.frames[start:] if frame["type"] == "event"]
    contents = [event["message"]["content"] for event in events if event.get("type") == "user"]
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return "\n".join(str(block.get("content")) for block in blocks if block.get("type") == "tool_result")


async def test_what_rules_deny_allow_and_leave_open(serve: Serve) -> None:
    async with serve() as (site, viewer, words):
        await denied_does_not_run(site, viewer, words)
        await allowed_runs_without_a_question(site, viewer, words)
        await open_is_asked_about_though_the_cli_would_not(viewer, words)
        await denied_path_is_not_read(site, viewer)


async def denied_does_not_run(site: Site, viewer: Client, words: Callable[[str], str]) -> None:
    asks, text = await run(viewer, words("touch stolen"), "allow")
    assert (asks, REFUSED in text) == ([], True), text
    assert not (site.data / "workspaces/alice/stolen").exists()


async def allowed_runs_without_a_question(site: Site, viewer: Client, words: Callable[[str], str]) -> None:
    asks, text = await run(viewer, words("mkdir made"))
    assert asks == [], text
    assert (site.data / "workspaces/alice/made").is_dir(), text


async def open_is_asked_about_though_the_cli_would_not(viewer: Client, words: Callable[[str], str]) -> None:
    asks, text = await run(viewer, words("echo hidden"), "deny")
    assert (len(asks), "hidden" in text) == (1, False)
    asks, text = await run(viewer, words("echo shown"), "allow")
    assert (len(asks), "shown" in text) == (1, True)
    asks, _text = await run(viewer, words("mkdir made; echo shown"), "allow")
    assert len(asks) == 1


async def denied_path_is_not_read(site: Site, viewer: Client) -> None:
    (site.data / "workspaces/alice/secret.txt").write_text("the treasure")
    asks, text = await run(viewer, "read secret.txt", "allow")
    assert (asks, REFUSED in text, "treasure" in text) == ([], True, False), text


async def test_without_rules_the_cli_asks_as_ever(serve: Serve) -> None:
    async with serve(security__denied_commands=[]) as (site, viewer, words):
        asks, text = await run(viewer, words("touch mine"), "allow")
        assert len(asks) == 1, text
        assert (site.data / "workspaces/alice/mine").exists()


PERMISSIONS = {
    "allow": ["Bash", "Bash(*)", "Bash(touch:*)", "Bash(touch stolen)", "Bash(echo:*)", "Read", "Write"],
    "defaultMode": "acceptEdits",
    "additionalDirectories": ["/"],
}
ALLOWING_HOOK = {
    "matcher": "*",
    "hooks": [
        {
            "type": "command",
            "command": "echo '"
            + json.dumps(
                {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}}
            )
            + "'",
        }
    ],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "allow rules": {"permissions": PERMISSIONS},
    "a hook that allows": {"permissions": PERMISSIONS, "hooks": {"PreToolUse": [ALLOWING_HOOK]}},
    "no hooks at all": {"permissions": PERMISSIONS, "disableAllHooks": True},
}


def write_settings(site: Site, settings: dict[str, Any]) -> None:
    """As a tool could: into every settings file below what the instance can write."""
    for name in ("homes/alice/.claude", "workspaces/alice/.claude"):
        directory = site.data / name
        directory.mkdir(parents=True, exist_ok=True)
        for file in ("settings.json", "settings.local.json"):
            (directory / file).write_text(json.dumps(settings))
    trust = {"hasTrustDialogAccepted": True, "allowedTools": PERMISSIONS["allow"]}
    state = site.data / "homes/alice/.claude/.claude.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    known["projects"] = dict.fromkeys(("/workspace", str(site.data / "workspaces/alice")), trust)
    state.write_text(json.dumps(known))


@pytest.mark.real_cli
@pytest.mark.acceptance
@pytest.mark.parametrize("settings", SETTINGS)
async def test_no_settings_file_from_before_the_start_changes_a_decision(
    short_dir: Path, real_cli: Path, settings: str
) -> None:
    async with serving(short_dir, real_cli, **RULES) as site:
        token = await site.add_user("alice")
        write_settings(site, SETTINGS[settings])
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await decisions_stand(site, viewer)


@pytest.mark.real_cli
async def test_no_settings_file_written_meanwhile_changes_a_decision(short_dir: Path, real_cli: Path) -> None:
    async with serving(short_dir, real_cli, **RULES) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            await viewer.ended(await viewer.send("hello"))
            # these have the allow rules too
            for settings in ("a hook that allows", "no hooks at all"):
                write_settings(site, SETTINGS[settings])
                await decisions_stand(site, viewer)


EVENTS = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop")


def write_programs(site: Site, marks: str) -> None:
    """Everything below what the instance can write by which the CLI starts a program by itself."""

    def touch(name: str) -> str:
        return f"touch {marks}/{name}"

    for place, directory in (("user", "homes/alice/.claude"), ("project", "workspaces/alice/.claude")):
        hooks = {
            event: [{"matcher": "", "hooks": [{"type": "command", "command": touch(f"{place}-{event}")}]}]
            for event in EVENTS
        }
        settings = {
            "hooks": hooks,
            "apiKeyHelper": f"{touch(place + '-helper')}; echo none",
            "enableAllProjectMcpServers": True,
            "disableAllHooks": False,
            "allowManagedHooksOnly": False,
        }
        (site.data / directory).mkdir(parents=True, exist_ok=True)
        for file in ("settings.json", "settings.local.json"):
            (site.data / directory / file).write_text(json.dumps(settings))
    server = {"command": "sh", "args": ["-c", f"{touch('mcp')}; exit 1"]}
    workspace = site.data / "workspaces/alice"
    (workspace / ".mcp.json").write_text(json.dumps({"mcpServers": {"own": server}}))
    (workspace / ".claude/commands").mkdir(exist_ok=True)
    (workspace / ".claude/commands/shell.md").write_text(
        f"---\nallowed-tools: Bash\n---\n!`{touch('command')}`\nhello\n"
    )


@pytest.mark.real_cli
@pytest.mark.parametrize("programs", ["auto", pytest.param("allow", marks=pytest.mark.acceptance)])
@pytest.mark.acceptance
async def test_hooks_and_servers_of_the_users_own_files(
    short_dir: Path, real_cli: Path, programs: str
) -> None:
    """With rules none of them runs, and ours still decides; where they are allowed they all run."""
    async with serving(short_dir, real_cli, security__user_programs=programs, **RULES) as site:
        token = await site.add_user("alice")
        marks = site.data / "workspaces/alice/marks"
        marks.mkdir(parents=True)
        async with client(site, token) as viewer:
            await viewer.subscribe()
            write_programs(site, "marks")
            asks, text = await run(viewer, "run `touch stolen`", "allow")
            assert (asks, REFUSED in text) == ([], True), text
            asks, text = await run(viewer, "run `mkdir made`", "deny")
            assert asks == [], text
            await viewer.ended(await viewer.send("/shell"))
        found = sorted(path.name for path in marks.iterdir())
        if programs == "auto":
            assert found == []
        else:
            assert {"user-PreToolUse", "project-Stop", "mcp", "command"} <= set(found)


async def decisions_stand(site: Site, viewer: Client) -> None:
    """What is denied is denied, what no rule allows is asked about."""
    asks, text = await run(viewer, "run `touch stolen`", "allow")
    assert (asks, REFUSED in text) == ([], True), text
    assert not (site.data / "workspaces/alice/stolen").exists()
    asks, text = await run(viewer, "run `echo hidden`", "deny")
    assert (len(asks), "hidden" in text) == (1, False), text


@pytest.mark.parametrize(
    ("command", "wanted"),
    [("touch stolen", REFUSED), pytest.param("mkdir made; true", None, marks=pytest.mark.acceptance)],
)
@pytest.mark.acceptance
async def test_a_call_that_a_killed_server_read_is_answered_by_the_next(
    serve: Serve, short_dir: Path, command: str, wanted: str | None
) -> None:
    rules = RULES | {"security__allowed_commands": ["mkdir made", "true"]}
    async with serve(**rules) as (site, viewer, words):
        await viewer.ended(await viewer.send("hello"))
        await site.kill()
        mark = short_dir / "pause"
        mark.mkdir()
        await site.start(CLAUDE_POOL_PAUSE=f"hook.before_write:{mark}")
        await viewer.resume()
        start = len(viewer.frames)
        turn = await viewer.send(words(command))
        await eventually((mark / "hook.before_write.reached").exists, what="the hook is asked")
        await site.kill()
        await site.start()
        await viewer.resume()
        assert (await viewer.ended(turn))["state"] == "succeeded"
        assert not viewer.of_type("permission_request")
        assert (wanted is None) or wanted in results(viewer, start)
        assert (site.data / "workspaces/alice/made").is_dir() == (wanted is None)
        assert not (site.data / "workspaces/alice/stolen").exists()


@pytest.mark.acceptance
async def test_an_instance_that_was_started_without_rules_gets_them_at_the_takeover(serve: Serve) -> None:
    async with serve(security__denied_commands=[]) as (site, viewer, words):
        await viewer.ended(await viewer.send("hello"))
        await site.kill()
        await site.start(CLAUDE_POOL__SECURITY__DENIED_COMMANDS='["touch *"]')
        await viewer.resume()
        asks, text = await run(viewer, words("touch stolen"), "allow")
        assert (asks, REFUSED in text) == ([], True), text
        await site.kill()
        await site.start()
        await viewer.resume()
        asks, text = await run(viewer, words("touch mine"), "allow")
        assert (len(asks), REFUSED in text) == (1, False), text


def test_the_hook_outlasts_the_time_without_a_server(tmp_path: Path) -> None:
    config = PoolConfig(data_dir=tmp_path, orphan_lease_seconds=1000, denied_commands=("rm",))
    (hook,) = ToolPolicy(config).hooks(session_of())["PreToolUse"]
    assert hook["timeout"] > 1000
    assert hook["matcher"] is None
    assert ToolPolicy(PoolConfig(data_dir=tmp_path)).hooks(session_of()) == {}


def session_of(user: str = "alice", template: Template | PoolError | None = None) -> Any:
    """As much of a session as the policy looks at; with an error its template cannot be read."""

    def load(_name: str) -> Template:
        if isinstance(template, PoolError):
            raise template
        return template or Template()

    around = SimpleNamespace(
        workspaces=SimpleNamespace(template=load),
        counters=Counters(),
        launcher=SimpleNamespace(describe_isolation=lambda: ("bwrap", "gateway_only", [])),
    )
    return SimpleNamespace(
        key=SessionKey(UserId(user), SessionId("s")),
        around=around,
        record=SimpleNamespace(template="default"),
    )


def test_rules_of_the_plan_and_of_the_template_come_on_top(tmp_path: Path) -> None:
    quotas = QuotaBook(plans={"staff": {}}, users={"alice": "staff", "bob": {"max_sessions": 1}})
    policy = ToolPolicy(
        PoolConfig(data_dir=tmp_path, quotas=quotas, plan_rules={"staff": {"denied_commands": ("rm",)}})
    )
    strict = Template(security=TemplateRules(allowed_commands=("ls",), denied_paths=("x",)))
    alice, bob = session_of("alice"), session_of("bob")
    assert (bool(policy.hooks(alice)), bool(policy.hooks(bob))) == (True, False)
    assert bool(policy.hooks(session_of("bob", strict)))
    both = policy._rules_of(session_of("alice", strict))
    assert [len(both.denied_commands), len(both.allowed_commands), len(both.denied_paths)] == [1, 1, 1]
    assert policy._rules_of(alice).allowed_commands == ()


def test_a_template_that_cannot_be_read_denies_everything(tmp_path: Path) -> None:
    policy = ToolPolicy(PoolConfig(data_dir=tmp_path))
    broken = session_of(template=BadRequest("the template is broken"))
    assert policy.hooks(broken)
    assert not policy.allows_user_programs(broken)
    given = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}}
    frame = ControlRequest(b"", "r1", "hook_callback", {"input": given})
    line = policy._answer(broken, frame, is_new=False)
    assert line is not None
    output = json.loads(line)["response"]["response"]["hookSpecificOutput"]
    assert output["permissionDecision"] == "deny"
    assert "the template is broken" in output["permissionDecisionReason"]


@pytest.mark.parametrize(
    ("choice", "rules", "allowed"),
    [("auto", (), True), ("auto", ("rm",), False), ("allow", ("rm",), True), ("deny", (), False)],
)
def test_programs_of_the_users_own_files(
    tmp_path: Path, choice: str, rules: tuple[str, ...], allowed: bool
) -> None:
    policy = ToolPolicy(PoolConfig(data_dir=tmp_path, denied_commands=rules, user_programs=choice))
    assert policy.allows_user_programs(session_of()) == allowed


def test_a_bad_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="denied_commands"):
        ToolPolicy(PoolConfig(data_dir=tmp_path, denied_commands=("rm; x",)))


def test_the_words_of_a_decision() -> None:
    assert hook_output(NO_DECISION) == {}
    for kind in (Kind.ALLOW, Kind.ASK, Kind.DENY):
        output = hook_output(Decision(kind, "the reason"))["hookSpecificOutput"]
        assert output["permissionDecision"] == kind.value
        assert "the reason" in output["permissionDecisionReason"]
