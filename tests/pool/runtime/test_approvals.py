"""Approvals: each its own, answered once, withdrawn when pointless."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool import errors
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, soon


async def asking(world: World, *names: str) -> tuple[Any, Screen, str]:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    for name in names:
        world.host.cli().ask(name)
    await soon(lambda: len(screen.of_type("permission_request")) == len(names))
    return pool, screen, turn


async def answer(pool: Any, name: str, decision: str = "allow", **more: Any) -> None:
    await pool.answer_permission("alice", "default", name, decision, answered_by="alice", **more)


async def test_seven_asks_with_one_tool_use_id_are_seven_approvals(world: World) -> None:
    names = [f"r{n}" for n in range(7)]
    pool, screen, turn = await asking(world, *names)
    assert [info.request_id for info in await pool.permissions("alice", "default")] == names
    await answer(pool, "r3", "deny")
    await soon(lambda: "r3" in world.host.cli().answers)
    assert list(world.host.cli().answers) == ["r3"]
    assert len(await pool.permissions("alice", "default")) == 6
    assert (await pool.status("alice", "default"))["turn"].state.value == "awaiting"
    for name in names:
        if name != "r3":
            await answer(pool, name)
    assert (await pool.status("alice", "default"))["turn"].state.value == "running"
    allowed = {name: body["response"]["behavior"] for name, body in world.host.cli().answers.items()}
    assert allowed == {name: "deny" if name == "r3" else "allow" for name in names}
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"


async def test_of_many_answers_at_once_one_wins_and_one_is_written(world: World) -> None:
    pool, screen, _turn = await asking(world, "r1")
    results = await asyncio.gather(
        *(answer(pool, "r1", "deny" if n % 2 else "allow") for n in range(10)), return_exceptions=True
    )
    assert results[0] is None
    assert {type(result) for result in results[1:]} == {errors.AlreadyResolved}
    written = [frame for frame in world.host.cli().input if frame["type"] == "control_response"]
    assert len(written) == 1
    (resolved,) = screen.of_type("permission_resolved")
    assert resolved["decision"] == "allow"


async def test_an_ask_that_the_cli_withdraws_is_gone_for_everybody(world: World) -> None:
    pool, screen, turn = await asking(world, "r1", "r2")
    world.host.cli().emit({"type": "control_cancel_request", "request_id": "r1"})
    await soon(lambda: screen.of_type("permission_resolved"))
    with pytest.raises(errors.AlreadyResolved):
        await answer(pool, "r1")
    assert [info.request_id for info in await pool.permissions("alice", "default")] == ["r2"]
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(screen.of_type("permission_resolved")) == 2
    assert await pool.permissions("alice", "default") == []


async def test_another_instance_may_use_the_same_name_again(world: World) -> None:
    pool, screen, turn = await asking(world, "r1")
    world.host.cli().die(1)
    await screen.ended(turn)
    second = await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(second))
    world.host.cli().ask("r1")
    await soon(lambda: len(screen.of_type("permission_request")) == 2)
    await answer(pool, "r1")
    await soon(lambda: "r1" in world.host.cli().answers)
    world.host.cli().finish()
    assert (await screen.ended(second))["state"] == "succeeded"


@pytest.mark.parametrize("bad", [{"decision": "maybe"}, {"decision": "allow", "scope": "ever"}])
async def test_what_is_no_answer_is_refused_and_changes_nothing(world: World, bad: dict[str, Any]) -> None:
    pool, _screen, _turn = await asking(world, "r1")
    with pytest.raises(errors.BadRequest):
        await answer(pool, "r1", **bad)
    assert len(await pool.permissions("alice", "default")) == 1


async def test_a_request_that_is_not_served_is_refused_so_that_the_turn_goes_on(world: World) -> None:
    await asking(world)
    request = {"subtype": "mcp_message", "server_name": "x", "message": {}}
    world.host.cli().emit({"type": "control_request", "request_id": "q1", "request": request})
    await soon(lambda: "q1" in world.host.cli().answers)
    assert world.host.cli().answers["q1"]["subtype"] == "error"


async def test_what_is_remembered_is_what_was_told(world: World) -> None:
    """A mode that is not allowed here, and a rule that nobody could read, are not agreed to."""
    pool, screen, _turn = await asking(world)
    rule = {"type": "addRules", "behavior": "allow", "rules": [{"toolName": "Bash", "ruleContent": "ls:*"}]}
    suggestions = [
        {**rule, "destination": "userSettings"},
        {"type": "setMode", "mode": "bypassPermissions", "destination": "session"},
    ]
    world.host.cli().ask("r1", permission_suggestions=suggestions)
    await soon(lambda: screen.of_type("permission_request"))
    assert screen.of_type("permission_request")[0]["remembers"] == ["Bash(ls:*)"]
    await answer(pool, "r1", scope="session")
    await soon(lambda: "r1" in world.host.cli().answers)
    given = world.host.cli().answers["r1"]["response"]["updatedPermissions"]
    assert given == [{**rule, "destination": "session"}]
