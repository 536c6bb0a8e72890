""" "Allow for this session" holds for the session, however many instances and servers it sees."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import Site, client, get, live_pid, serving
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon
from tests.waiting import eventually

RULES = [{"toolName": "Bash", "ruleContent": "touch:*"}]
SUGGESTIONS = [
    {"type": "addRules", "behavior": "allow", "rules": RULES, "destination": "localSettings"},
    {"type": "addDirectories", "directories": ["/srv"], "destination": "session"},
]
TOLD = {"permissions": {"allow": ["Bash(touch:*)"], "additionalDirectories": ["/srv"]}}


async def agree(world: World, pool: Any, screen: Screen, scope: str) -> None:
    """One turn in which an approval is answered."""
    world.host.prepare = manual
    turn = await say(pool, f"m-{scope}")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().ask(scope, permission_suggestions=SUGGESTIONS)
    await soon(lambda: len(session_of(pool).approvals) == 1)
    await pool.answer_permission("alice", "default", scope, "allow", scope=scope, answered_by="alice")
    await soon(lambda: scope in world.host.cli().answers)
    world.host.cli().finish()
    await screen.ended(turn)
    world.host.prepare = lambda _cli: None
    world.host.cli().is_manual = False


def told(world: World, session: str = "default") -> list[Any]:
    """What the newest CLI was told before its first message."""
    requests = [frame for frame in world.host.cli(session).input if frame["type"] == "control_request"]
    return [
        one["request"]["settings"] for one in requests if one["request"]["subtype"] == "apply_flag_settings"
    ]


async def test_the_next_instance_is_told_what_was_allowed_and_the_user_sees_what_that_is(
    world: World,
) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await agree(world, pool, screen, "session")
    shown = screen.of_type("permission_request")[0]["remembers"]
    assert (
        list((await pool.get_session("alice", "default")).remembered)
        == shown
        == ["Bash(touch:*)", "files in /srv"]
    )
    assert told(world) == [], "the CLI that asked remembers it by itself"
    # Parked, recycled, ended: the next one is told, before anything runs.
    for n in range(2):
        await pool.destroy_instance("alice")
        await screen.ended(await say(pool, f"n{n}"))
        assert told(world) == [TOLD]
        subtypes = [frame["request"]["subtype"] for frame in world.host.cli().input if "request" in frame]
        assert subtypes[:2] == ["initialize", "apply_flag_settings"]


async def test_it_survives_the_server_and_a_running_cli_is_not_told_twice(world: World) -> None:
    pool = await world.start()
    await agree(world, pool, await follow(pool), "session")
    await world.crash(pool)
    again = await world.start()
    screen = await follow(again)
    await screen.ended(await say(again, "m2"))
    assert told(world) == []
    await again.destroy_instance("alice")
    await world.crash(again)
    third = await world.start()
    screen = await follow(third)
    await screen.ended(await say(third, "m3"))
    assert told(world) == [TOLD]


@pytest.mark.parametrize("scope", ["once", "always"])
async def test_another_scope_is_not_the_sessions(world: World, scope: str) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await agree(world, pool, screen, scope)
    assert (await pool.get_session("alice", "default")).remembered == ()
    await pool.destroy_instance("alice")
    await screen.ended(await say(pool, "m2"))
    assert told(world) == []


async def test_it_is_of_one_session_only(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await agree(world, pool, screen, "session")
    fork = await pool.fork_session("alice", "default", "fork")
    assert fork.remembered == ()
    for name in ("fork", "other"):
        screen = await follow(pool, name)
        await screen.ended(await say(pool, "m1", name))
        assert told(world, name) == []


async def test_a_cli_that_does_not_take_it_works_and_asks_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await agree(world, pool, screen, "session")
    await pool.destroy_instance("alice")
    world.host.fail("write", TimeoutError(), on=2)
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert told(world) == []


async def is_over(site: Site, token: str) -> bool:
    return bool((await get(site, token, "/api/v1/sessions/default"))["state"] != "live")


@pytest.mark.real_cli
@pytest.mark.acceptance
async def test_the_real_cli_asks_once_whatever_becomes_of_its_process(
    short_dir: Path, real_cli: Path
) -> None:
    async with serving(short_dir, real_cli) as site:
        token = await site.add_user("alice")
        async with client(site, token) as viewer:
            await viewer.subscribe()
            turn = await viewer.send("run `make first`")
            await eventually(lambda: viewer.of_type("permission_request"))
            ask = viewer.of_type("permission_request")[0]
            (rule,) = ask["remembers"]
            assert rule.startswith("Bash(make first"), ask
            await viewer.put(
                type="permission", request_id=ask["request_id"], decision="allow", scope="session"
            )
            await viewer.ended(turn)
        await site.kill()
        await site.start()
        async with client(site, token) as viewer:
            await viewer.subscribe()
            for _ in range(2):
                assert (await viewer.ended(await viewer.send("run `make first`")))["state"] == "succeeded"
                listed = await get(site, token, "/api/v1/sessions/default")
                assert listed["remembered"] == [rule]
                pid = await live_pid(site, token)
                os.kill(pid, signal.SIGKILL)
                await eventually(lambda: is_over(site, token), what="the server knows of the death")
            assert viewer.of_type("permission_request") == []
            await viewer.send("run `make second`")
            await eventually(
                lambda: viewer.of_type("permission_request"), what="other commands are asked about"
            )
