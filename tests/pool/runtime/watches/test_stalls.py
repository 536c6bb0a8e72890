"""A turn that hangs is told of, then interrupted; one that waits for something never is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pool import ClaudeInstancePool
from tests.fakes.fake_cli import FakeCli
from tests.pool.conftest import MakePool, Screen
from tests.pool.runtime.conftest import World, follow, manual, say, soon

STALL = 0.2


async def hanging(world: World, **settings: Any) -> tuple[ClaudeInstancePool, Screen, str]:
    world.host.prepare = manual
    pool = await world.start(turn_stall_seconds=STALL, **settings)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    return pool, screen, turn


async def watch(pool: ClaudeInstancePool, seconds: float) -> None:
    """Look often for a while."""
    for _ in range(int(seconds / 0.02)):
        await pool._watches.look_at_instances()
        await asyncio.sleep(0.02)


async def test_a_silent_turn_is_told_of_and_then_interrupted(world: World) -> None:
    pool, screen, turn = await hanging(world)
    checks = []
    for _ in range(60):
        await watch(pool, 0.02)
        checks.append(pool.health()["checks"]["turns"]["detail"])
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("interrupted", "turn_stalled")
    assert "1 turns without output for more than 0.2 s" in checks
    assert checks[-1] == "no turn hangs"
    assert pool.health()["checks"]["turns"]["ok"]
    world.host.prepare = lambda _cli: None
    world.host.cli().is_manual = False
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_a_cli_that_answers_and_begins_with_no_message_is_replaced(world: World) -> None:
    def is_stuck(cli: FakeCli) -> None:
        cli.own_turn = True

    world.host.prepare = is_stuck
    pool = await world.start(turn_stall_seconds=STALL)
    screen = await follow(pool)
    turn, behind = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: world.host.living)
    stuck = world.host.cli()
    world.host.prepare = lambda _cli: None
    await watch(pool, 1.0)
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("interrupted", "turn_stalled")
    assert "replaced" in ending["reason"]["message"]
    assert (await screen.ended(behind))["state"] == "succeeded"
    assert not stuck.is_alive
    assert stuck.runs == []


def calls_a_tool(cli: FakeCli) -> None:
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    cli.emit({"type": "assistant", "message": {"content": [block]}})


def asks(cli: FakeCli) -> None:
    cli.ask("r1")


def tries_again(cli: FakeCli) -> None:
    cli.emit({"type": "system", "subtype": "api_retry", "attempt": 1})


@pytest.mark.parametrize("waits", [calls_a_tool, asks, tries_again])
async def test_who_waits_for_something_is_never_interrupted(
    world: World, waits: Callable[[FakeCli], None]
) -> None:
    pool, screen, turn = await hanging(world)
    waits(world.host.cli())
    await watch(pool, 5 * STALL)
    assert screen.turn_states(turn)[-1] == "running"
    assert pool._watches.stalls.silent_turns == 0
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"


async def test_signs_of_life_are_no_output_but_deltas_are(world: World) -> None:
    pool, screen, turn = await hanging(world)
    for _ in range(30):
        world.host.cli().delta("x")
        await watch(pool, 0.02)
    assert screen.turn_states(turn)[-1] == "running"
    cli = world.host.cli()
    while screen.turn_states(turn)[-1] == "running":
        cli.emit({"type": "keep_alive"})
        await watch(pool, 0.02)
    assert (await screen.ended(turn))["reason"]["code"] == "turn_stalled"


async def test_a_tool_that_has_answered_is_waited_for_no_more(world: World) -> None:
    pool, screen, turn = await hanging(world)
    calls_a_tool(world.host.cli())
    answer = {"type": "tool_result", "tool_use_id": "t1", "content": "done"}
    world.host.cli().emit({"type": "user", "message": {"content": [answer]}})
    await watch(pool, 4 * STALL)
    assert (await screen.ended(turn))["reason"]["code"] == "turn_stalled"


async def test_a_time_of_zero_means_never(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(turn_stall_seconds=0)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    await watch(pool, 0.5)
    assert screen.turn_states(turn)[-1] == "running"


@pytest.mark.acceptance
async def test_a_process_started_in_the_turn_keeps_it_whatever_the_frames_say(make_pool: MakePool) -> None:
    pool = await make_pool(turn_stall_seconds=0.3, idle_timeout_seconds=0)
    screen = await follow(pool)
    kept = (await pool.submit("alice", "default", "go !child !sleep 5", message_id="m1")).turn_id
    assert (await screen.ended(kept, 30))["state"] == "succeeded"
    hung = (await pool.submit("bob", "default", "go !sleep 600", message_id="m1")).turn_id
    other = Screen()
    await pool.subscribe("bob", "default", None, other)
    assert (await other.ended(hung, 30))["reason"]["code"] == "turn_stalled"
