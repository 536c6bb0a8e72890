"""What a hostile program in a session gets at: tried, and equal to what ``docs/isolation.md`` says."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
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
from tests.e2e.bash_tool import run_in_bash
from tests.e2e.escape_attempts import ATTEMPTS
from tests.e2e.escapes import (
    COLUMNS,
    KEY,
    MEANT,
    cells,
    columns_here,
    columns_missing,
    documented,
    host_services,
    run_column,
)
from tests.e2e.service_users import check_users, service_user
from tests.e2e.site import Site, client, get, serving

pytestmark = [
    pytest.mark.skipif(
        not (probe().cuts_network and probe().filters_calls and probe().disables_nesting),
        reason="no bubblewrap that can do all of it",
    ),
    pytest.mark.usefixtures("forked_servers"),
]

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give users uids")
WAYS = [
    pytest.param("auto", "ours"),
    pytest.param("auto", "somebody", marks=pytest.mark.acceptance),
    pytest.param("uid", "ours", marks=[pytest.mark.acceptance, ROOT_ONLY]),
    # else what is told to the attempts could be wrong, and nothing be found there
    pytest.param("none", "somebody", marks=pytest.mark.acceptance),
]


# The default as anybody and as root, and what gets through where there are no walls.
SAMPLE = ("auto", "auto, service run as root", "none")
OTHERS = tuple(name for name in COLUMNS if name not in SAMPLE)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("columns", [SAMPLE, pytest.param(OTHERS, marks=pytest.mark.acceptance)])
async def test_every_attempt_ends_as_the_page_says(columns: Sequence[str]) -> None:
    here = [name for name in columns_here() if name in columns]
    results = await asyncio.gather(*(asyncio.to_thread(run_column, name) for name in here))
    for name, outcomes in zip(here, results, strict=True):
        assert not {words: told for words, told in outcomes.items() if told.startswith("broken")}, name
        got_through = {words for words, told in outcomes.items() if told == "open"}
        if COLUMNS[name].isolation.startswith("bwrap"):
            assert got_through == MEANT.get(name, set()), name
        elif COLUMNS[name].mode == "uid":
            assert len(ATTEMPTS) - len(got_through) > 60
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
    missing = columns_missing()
    if missing and not (os.geteuid() == 0 and os.environ.get("CI")):
        pytest.skip(str(missing))
    assert not missing


async def facts_of(site: Site, token: str) -> dict[str, Any]:
    """What alice would like to know about bob, whose token this is, and about the host."""
    instance = (await get(site, token, "/api/v1/sessions/default/status"))["instance"]
    above = psutil.Process(instance["pid"]).parents()
    (keeper,) = [one.pid for one in above if "pool.keeper" in one.cmdline()]
    runtime = noted_runtime_dir(site.data)
    assert runtime is not None
    secret = site.data / "workspaces/bob/secret"
    (conversation,) = (site.data / "homes/bob").rglob("*.jsonl")
    settings = site.data / "homes/bob/.claude/settings.json"
    for path in (secret, settings):
        path.write_text("{}")
        os.chown(path, secret.parent.stat().st_uid, -1)
    files = {
        "secret": secret,
        "conversation": conversation,
        "settings": settings,
        "database": next(site.data.glob("*.db")),
        "keys": site.data / "gateway/config.json",
        "jwt": site.data / "secrets/jwt.key",
        "workspaces": site.data / "workspaces",
        "spool": site.data / "spool",
        "keeper_socket": runtime / SOCKET_NAME,
        "control_socket": site.data / "control.sock",
        "model_socket": socket_directory(runtime, instance["id"]) / "api.sock",
    }
    assert all(path.exists() for path in files.values())
    numbers = {"pid": instance["pid"], "keeper": keeper, "server": site.pid}
    texts = {"token": instance["id"], "key": KEY, "cli": sandbox.CLI, "word": "--input-format"}
    assert any(texts["word"] in word for word in psutil.Process(instance["pid"]).cmdline())
    return {name: str(path) for name, path in files.items()} | numbers | texts


@pytest.mark.real_cli
@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no Python that a sandbox has too")
@pytest.mark.parametrize(("mode", "service"), WAYS)
async def test_the_real_clis_bash_tool_gets_no_further(
    short_dir: Path, real_cli: Path, mode: str, service: str
) -> None:
    main, demo = {"kind": "anthropic", "api_key": KEY}, {"kind": "demo", "default": True}
    settings: dict[str, Any] = {"isolation__mode": mode, "providers": {"main": main, "demo": demo}}
    if mode == "none":  # nothing holds the processes, and the server would end the turn
        settings["quotas__default"] = {"max_processes": None, "memory_bytes": None}
    run_as = service_user(service, short_dir)
    async with serving(short_dir, real_cli, run_as=run_as, **settings) as site:
        alice, bob = await site.add_user("alice"), await site.add_user("bob")
        async with client(site, alice) as attacker, client(site, bob) as victim:
            await attacker.subscribe()
            await victim.subscribe()
            assert (await victim.ended(await victim.send("say hello"), 60))["state"] == "succeeded"
            await attacker.ended(await attacker.send("say hello"), 60)
            await check_users(site, [alice, bob], run_as)
            workspace = site.data / "workspaces/alice"
            shutil.copy(escape_attempts.__file__, workspace / "attempts.py")
            with host_services(short_dir) as services:
                facts = await facts_of(site, bob) | services
                if mode != "auto":
                    facts["cli"] = str(real_cli)
                (workspace / "facts.json").write_text(json.dumps(facts))
                told = await run_in_bash(attacker, "/usr/bin/python3 attempts.py > outcomes.json")
                assert told["state"] == "succeeded"
            outcomes = json.loads((workspace / "outcomes.json").read_text())
            assert len(outcomes) == len(ATTEMPTS)
            if mode != "auto":
                assert cells(mode, outcomes) == documented()[mode]
            else:
                assert {
                    words: told for words, told in outcomes.items() if not told.startswith("blocked")
                } == {}
            # and nobody is the worse for it
            assert (await victim.ended(await victim.send("say still here"), 60))["state"] == "succeeded"
            assert (await attacker.ended(await attacker.send("say still here"), 60))["state"] == "succeeded"
