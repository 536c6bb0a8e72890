"""What a session does is in the audit log: once, with who and from where, and never with anybody's words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pool.caller import Caller, calling
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, soon

BROWSER = Caller(actor="alice", channel="websocket", address="203.0.113.7", agent="Browser/1")


async def told(pool: Any, action: str) -> list[dict[str, Any]]:
    return [record.as_line() for record in await pool.audit.page(action=action, limit=500)]


async def running(world: World, **changes: Any) -> tuple[Any, Screen, str]:
    world.host.prepare = manual
    pool = await world.start(**changes)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    return pool, screen, turn


def use_tool(world: World, call: str, name: str = "Bash", **given: Any) -> None:
    block = {"type": "tool_use", "id": call, "name": name, "input": given}
    message = {"id": f"msg-{call}", "role": "assistant", "content": [block]}
    world.host.cli().emit({"type": "assistant", "message": message})


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_prompt_is_told_by_hash_and_length_with_the_commit_that_accepts_it(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    with calling(BROWSER):
        accepted = await pool.submit("alice", "default", "my private words", message_id="m1")
        await pool.submit("alice", "default", "my private words", message_id="m1")
    [line] = await told(pool, "prompt")
    assert (line["actor"], line["user_id"]) == ("alice", "alice")
    assert line["facts"] == {
        "address": "203.0.113.7",
        "agent": "Browser/1",
        "channel": "websocket",
        "length": 16,
        "session": "default",
        "sha256": hash_of("my private words"),
        "turn": accepted.turn_id,
    }


async def test_a_prompt_is_kept_whole_where_that_is_configured(world: World) -> None:
    pool = await world.start(audit_prompts="full")
    blocks = [{"type": "text", "text": "my words"}]
    await pool.submit("alice", "default", blocks, message_id="m1")
    [line] = await told(pool, "prompt")
    assert line["facts"]["content"] == blocks
    assert line["facts"]["channel"] == "python"


async def test_an_instance_is_told_from_spawn_to_end(world: World) -> None:
    pool, screen, turn = await running(world)
    world.host.cli().finish()
    await screen.ended(turn)
    assert await pool.destroy_instance("alice")
    [spawned] = await told(pool, "instance.spawned")

    [ended] = await told(pool, "instance.ended")
    assert spawned["facts"]["instance"] == ended["facts"]["instance"]
    assert (spawned["actor"], spawned["facts"]["mode"]) == ("@server", "default")
    assert (ended["facts"]["why"], ended["facts"]["turns"]) == ("destroyed", 1)


async def test_a_tool_is_told_by_name_and_the_hash_of_what_it_was_given(world: World) -> None:
    pool, screen, turn = await running(world)
    use_tool(world, "toolu_1", command="cat my-private-file")
    use_tool(world, "toolu_2", name="Write", file_path="/x", content="é\ud800")
    world.host.cli().finish()
    await screen.ended(turn)
    first, second = await told(pool, "tool")
    assert (first["actor"], first["user_id"], first["facts"]["tool"]) == ("@model", "alice", "Bash")
    assert (first["facts"]["turn"], first["facts"]["call"]) == (turn, "toolu_1")
    assert first["facts"]["input_sha256"] == hash_of('{"command":"cat my-private-file"}')
    assert len(second["facts"]["input_sha256"]) == 64
    assert "my-private-file" not in json.dumps([first, second])


async def test_a_call_that_rules_decided_is_told_once_with_rule_and_decision(world: World) -> None:
    pool, screen, turn = await running(world, denied_commands=("rm *",))
    given = {"command": "rm -rf everything"}
    asked = {
        "subtype": "hook_callback",
        "callback_id": "policy",
        "tool_use_id": "toolu_1",
        "input": {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": given},
    }
    use_tool(world, "toolu_1", **given)
    world.host.cli().emit({"type": "control_request", "request_id": "h1", "request": asked})
    await soon(lambda: "h1" in world.host.cli().answers)
    world.host.cli().finish()
    await screen.ended(turn)
    [call] = await told(pool, "tool")
    [line] = await told(pool, "tool.decided")
    assert line["facts"]["call"] == call["facts"]["call"] == "toolu_1"
    assert line["facts"]["decision"] == "deny"
    assert line["facts"]["rule"] == "rm *"
    assert line["facts"]["input_sha256"] == hash_of('{"command":"rm -rf everything"}')


async def test_an_approval_tells_who_decided_what_from_where_and_for_how_long(world: World) -> None:
    pool, screen, turn = await running(world)
    world.host.cli().ask("r1")
    await soon(lambda: screen.of_type("permission_request"))
    with calling(BROWSER):
        await pool.answer_permission("alice", "default", "r1", "allow", scope="session", answered_by="alice")
    world.host.cli().finish()
    await screen.ended(turn)
    [line] = await told(pool, "approval")
    facts = line["facts"]
    assert (line["actor"], facts["address"], facts["channel"]) == ("alice", "203.0.113.7", "websocket")
    assert (facts["request"], facts["decision"], facts["scope"]) == ("r1", "allow", "session")


async def test_after_a_crash_nothing_is_told_twice_and_nothing_is_lost(world: World) -> None:
    pool, _screen, turn = await running(world)
    use_tool(world, "toolu_1", command="one")
    await soon(lambda: pool._supervisor.sessions)
    await world.crash(pool)
    use_tool(world, "toolu_2", command="two")
    again = await world.start()
    screen = await follow(again, cursor="0")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().finish()
    await screen.ended(turn)
    calls = [line["facts"]["call"] for line in await told(again, "tool")]
    assert calls == ["toolu_1", "toolu_2"]
    assert len(await told(again, "prompt")) == 1
    assert len(await told(again, "instance.spawned")) == 1


async def test_another_permission_mode_is_told(world: World) -> None:
    pool, screen, turn = await running(world)
    world.host.cli().finish()
    await screen.ended(turn)
    with calling(BROWSER):
        await pool.set_permission_mode("alice", "default", "acceptEdits")
    [line] = await told(pool, "session.permission_mode")
    assert (line["actor"], line["facts"]["mode"]) == ("alice", "acceptEdits")
