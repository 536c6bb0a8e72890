"""A tool that writes too large a file, or burns too long, ends; its turn and the CLI go on."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.launch.isolation import probe
from tests.e2e.bash_tool import run_in_bash
from tests.e2e.service_users import service_user
from tests.e2e.site import Client, Site, client, live_pid, serving

pytestmark = pytest.mark.usefixtures("forked_servers")


MIB = 1 << 20
LIMITS = {"tool_file_bytes": 2 * MIB, "tool_cpu_seconds": 1}
FILL = "head -c 9000000 /dev/zero > big; echo ended $?"
BURN = "sh -c 'while :; do :; done'; echo ended $?"
SHOW = "echo $(ulimit -f) $(ulimit -t) $(ulimit -H -t)"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give users uids")
NO_BWRAP = pytest.mark.skipif(not probe().works, reason="no bubblewrap that works")


async def told(viewer: Client, command: str) -> str:
    """What the model reads of a command; its turn succeeds."""
    start = len(viewer.frames)
    ending = await run_in_bash(viewer, command)
    assert ending["state"] == "succeeded", ending
    events = [frame["event"] for frame in viewer.frames[start:] if frame["type"] == "event"]
    return json.dumps([event["message"]["content"] for event in events if event.get("type") == "user"])


def limits_of(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


async def check_limits(site: Site, token: str, viewer: Client) -> None:
    """The tools have them, the CLI has none of them and is the same one afterwards."""
    await viewer.subscribe()
    # in units of 512 or 1024 bytes, as the shell likes
    shown = await told(viewer, SHOW)
    assert "2048 1 6" in shown or "4096 1 6" in shown, shown
    pid = await live_pid(site, token)
    assert "ended 153" in await told(viewer, FILL)
    assert (site.data / "workspaces/alice/big").stat().st_size == 2 * MIB
    assert "ended 152" in await told(viewer, BURN)
    assert "again" in await told(viewer, "echo again")
    assert await live_pid(site, token) == pid
    for line in limits_of(pid).splitlines():
        if line.startswith(("Max file size", "Max cpu time")):
            assert line.split()[3:5] == ["unlimited", "unlimited"], line


@asynccontextmanager
async def limited(directory: Path, cli: Path, mode: str, **settings: Any) -> AsyncIterator[Site]:
    """A server whose users' tools have low limits."""
    run_as = service_user("ours", directory)
    quotas: dict[str, Any] = {"isolation__mode": mode, "quotas__default": LIMITS}
    async with serving(directory, cli, run_as=run_as, **quotas, **settings) as site:
        yield site


@pytest.mark.parametrize(
    "mode", [pytest.param("auto", marks=NO_BWRAP), pytest.param("none", marks=pytest.mark.acceptance)]
)
async def test_a_tool_ends_at_its_limits_and_the_turn_goes_on(
    short_dir: Path, fake_claude: Path, mode: str
) -> None:
    async with limited(short_dir, fake_claude, mode) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await check_limits(site, token, viewer)


def write_settings(site: Site, prefix: str) -> None:
    """What a tool may write into every file that the CLI reads: a program, a library, a hook, a server."""
    hook = {"type": "command", "command": 'ulimit -t > "$CLAUDE_PROJECT_DIR"/hook'}
    settings = {
        "env": {"CLAUDE_CODE_SHELL_PREFIX": prefix, "LD_PRELOAD": "/nonexistent.so"},
        "hooks": {"PreToolUse": [{"matcher": "", "hooks": [hook]}]},
        "enableAllProjectMcpServers": True,
    }
    workspace = site.data / "workspaces/alice"
    for directory in (site.data / "homes/alice/.claude", workspace / ".claude"):
        directory.mkdir(parents=True, exist_ok=True)
        for file in ("settings.json", "settings.local.json"):
            (directory / file).write_text(json.dumps(settings))
    server = {"command": "sh", "args": ["-c", "ulimit -t > mcp; exit 1"]}
    (workspace / ".mcp.json").write_text(json.dumps({"mcpServers": {"own": server}}))


@pytest.mark.real_cli
@pytest.mark.acceptance
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("mode", "programs"),
    [
        pytest.param("auto", "allow", marks=NO_BWRAP),
        pytest.param("auto", "deny", marks=NO_BWRAP),
        pytest.param("uid", "deny", marks=ROOT_ONLY),
        ("none", "allow"),
    ],
)
async def test_the_real_cli_does_whatever_a_settings_file_says(
    short_dir: Path, real_cli: Path, mode: str, programs: str
) -> None:
    async with limited(short_dir, real_cli, mode, security__user_programs=programs) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await check_limits(site, token, viewer)
            for prefix in ("/usr/bin/env", ""):
                write_settings(site, prefix)
                # by the CLI that reads the files again while it runs, and by one that begins with them
                shown = await told(viewer, SHOW)
                before = await live_pid(site, token)
                await site.stop()
                await site.start()
                await viewer.resume()
                shown += await told(viewer, SHOW)
                assert await live_pid(site, token) != before
                assert shown.count("1 6") == 2, shown
                assert ("LD_PRELOAD" in shown) == (programs == "allow"), "the linker says what it cannot load"
            for name in ("hook", "mcp"):
                mark = site.data / "workspaces/alice" / name
                assert (mark.read_text() if mark.exists() else None) == (
                    "1\n" if programs == "allow" else None
                )
            # the place of the session is kept, and words arrive as they were written
            await told(viewer, "mkdir -p 'a  b' && cd 'a  b'")
            assert "a  b" in await told(viewer, "pwd")
