"""What a hostile program in a session gets at: tried, and equal to what ``docs/isolation.md`` says."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from pool.keeper.gateway import socket_directory
from pool.keeper.program import noted_runtime_dir
from pool.keeper.server import SOCKET_NAME
from pool.launch import sandbox
from pool.launch.isolation import probe
from tests.e2e import escape_attempts
from tests.e2e.escape_attempts import ATTEMPTS
from tests.e2e.escapes import COLUMNS, KEY, cells, columns_here, documented, host_services, run_column
from tests.e2e.site import OUTCOMES, Client, Site, client, get, serving

pytestmark = pytest.mark.skipif(
    not (probe().cuts_network and probe().filters_calls and probe().disables_nesting),
    reason="no bubblewrap that can do all of it",
)

# the kernel counts no processes of the host's root
OPEN_AS_ROOT = {"start processes without end"}


@pytest.mark.timeout(150)
async def test_every_attempt_ends_as_the_page_says() -> None:
    here = columns_here()
    results = await asyncio.gather(*(asyncio.to_thread(run_column, name) for name in here))
    for name, outcomes in zip(here, results, strict=True):
        assert not {words: told for words, told in outcomes.items() if told.startswith("broken")}, name
        got_through = {words for words, told in outcomes.items() if told == "open"}
        if COLUMNS[name][0] != "none":
            assert got_through == (OPEN_AS_ROOT if COLUMNS[name][1] else set()), name
        else:
            # else the attempts themselves are not able to get through anything
            assert len(got_through) > 30
        assert cells(name, outcomes) == documented()[name], name


def test_the_page_has_every_attempt_once() -> None:
    words = [one.words for one in ATTEMPTS]
    assert len(words) == len(set(words)) >= 40
    for column in documented().values():
        assert list(column) == words
    assert set(documented()) == set(COLUMNS)


def test_root_can_run_every_column() -> None:
    assert (set(columns_here()) == set(COLUMNS)) == (os.geteuid() == 0)


async def run_in_bash(viewer: Client, command: str) -> str:
    """Have the CLI's Bash tool run a command, allowing whatever it asks; the turn's outcome."""
    turn = await viewer.send(f"run `{command}`")
    answered: set[str] = set()
    async with asyncio.timeout(60):
        while not (ended := [state for state in viewer.states(turn) if state in OUTCOMES]):
            for ask in viewer.of_type("permission_request"):
                if ask["request_id"] not in answered:
                    answered.add(ask["request_id"])
                    await viewer.put(type="permission", request_id=ask["request_id"], decision="allow")
            await asyncio.sleep(0.05)
    return ended[0]


async def facts_of(site: Site, token: str) -> dict[str, Any]:
    """What alice would like to know about bob, whose token this is, and about the host."""
    instance = (await get(site, token, "/api/v1/sessions/default/status"))["instance"]
    keeper = psutil.Process(instance["pid"]).parents()[2].pid
    runtime = noted_runtime_dir(site.data)
    assert runtime is not None
    secret = site.data / "workspaces/bob/secret"
    secret.write_text("bob's")
    (conversation,) = (site.data / "homes/bob").rglob("*.jsonl")
    files = {
        "secret": secret,
        "conversation": conversation,
        "settings": conversation.with_name("settings.json"),
        "database": next(site.data.glob("*.db")),
        "keys": site.data / "gateway/config.json",
        "jwt": site.data / "secrets/jwt.key",
        "workspaces": site.data / "workspaces",
        "spool": site.data / "spool",
        "keeper_socket": runtime / SOCKET_NAME,
        "model_socket": socket_directory(runtime, instance["id"]) / "api.sock",
    }
    assert all(path.exists() for name, path in files.items() if name != "settings")
    numbers = {"pid": instance["pid"], "keeper": keeper, "server": site.pid}
    texts = {"token": instance["id"], "key": KEY, "cli": sandbox.CLI}
    # the server interrupts a turn that has so many processes: another test's story
    left_out = {"left_out": sorted(OPEN_AS_ROOT)}
    return {name: str(path) for name, path in files.items()} | numbers | texts | left_out


@pytest.mark.real_cli
@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that a sandbox has too")
async def test_the_real_clis_bash_tool_gets_no_further(short_dir: Path, real_cli: Path) -> None:
    providers = {"main": {"kind": "anthropic", "api_key": KEY}, "demo": {"kind": "demo", "default": True}}
    async with serving(short_dir, real_cli, providers=providers) as site:
        alice, bob = await site.add_user("alice"), await site.add_user("bob")
        async with client(site, alice) as attacker, client(site, bob) as victim:
            await attacker.subscribe()
            await victim.subscribe()
            assert (await victim.ended(await victim.send("say hello"), 60))["state"] == "succeeded"
            await attacker.ended(await attacker.send("say hello"), 60)
            workspace = site.data / "workspaces/alice"
            shutil.copy(escape_attempts.__file__, workspace / "attempts.py")
            with host_services(short_dir) as services:
                facts = await facts_of(site, bob) | services
                (workspace / "facts.json").write_text(json.dumps(facts))
                told = await run_in_bash(attacker, "/usr/bin/python3 attempts.py > outcomes.json")
                assert told == "succeeded"
            outcomes = json.loads((workspace / "outcomes.json").read_text())
            assert len(outcomes) == len(ATTEMPTS) - len(OPEN_AS_ROOT)
            assert {words: told for words, told in outcomes.items() if not told.startswith("blocked")} == {}
            # and nobody is the worse for it
            assert (await victim.ended(await victim.send("say still here"), 60))["state"] == "succeeded"
            assert (await attacker.ended(await attacker.send("say still here"), 60))["state"] == "succeeded"


BOMB = """
import os, signal, time
for number in range(1500):
    try:
        if os.fork() == 0:
            signal.pause()
    except OSError:
        time.sleep(0.002)
time.sleep(2)
os.kill(0, signal.SIGKILL)
"""


@pytest.mark.real_cli
@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that a sandbox has too")
async def test_a_fork_bomb_of_one_user_leaves_the_other_working(short_dir: Path, real_cli: Path) -> None:
    # the other one asks again and again for as long as it lasts: more often than a person may
    async with serving(short_dir, real_cli, quotas__default__turns_per_minute=6000) as site:
        alice, bob = await site.add_user("alice"), await site.add_user("bob")
        async with client(site, alice) as bomber, client(site, bob) as other:
            await bomber.subscribe()
            await other.subscribe()
            assert (await other.ended(await other.send("say hello"), 60))["state"] == "succeeded"
            assert (await bomber.ended(await bomber.send("say hello"), 60))["state"] == "succeeded"
            (site.data / "workspaces/alice/bomb.py").write_text(BOMB)
            explosion = asyncio.create_task(run_in_bash(bomber, "/usr/bin/python3 bomb.py"), name="bomb")
            while not explosion.done():
                assert (await other.ended(await other.send("say still here"), 30))["state"] == "succeeded"
            await explosion
            # the kernel held it at the limit, or the server saw it and ended it
            async with asyncio.timeout(60):
                while (await bomber.ended(await bomber.send("say again"), 60))["state"] != "succeeded":
                    await asyncio.sleep(0.5)
            # the other's CLI is still its first one
            assert other.cursors["default"].startswith("1.")
