"""Who does not answer is found out before a message is risked on it, and ended; who answers is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool.model import SessionState
from pool.policy.health import Health
from pool.runtime import doubt
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


@pytest.fixture
def soon_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubt, "ANSWER_SECONDS", 0.1)


def asked(cli: Any) -> list[str]:
    return [frame["request"]["subtype"] for frame in cli.input if frame["type"] == "control_request"]


def long_ago(world: World, pool: Any) -> None:
    instance = session_of(pool).instance
    assert instance is not None
    instance.heard_at -= 1000


async def test_after_a_long_silence_the_cli_is_asked_before_it_gets_a_message(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    cli = world.host.cli()
    await screen.ended(await say(pool, "m2"))
    assert asked(cli) == ["initialize"], "who spoke a moment ago is not asked"
    long_ago(world, pool)
    turn = await say(pool, "m3")
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert asked(cli) == ["initialize", "get_binary_version"]
    assert turn in cli.runs


async def test_one_that_does_not_answer_gets_no_message_and_the_next_one_does(
    world: World, soon_answered: None
) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    old = world.host.cli()
    old.is_deaf = True
    long_ago(world, pool)
    turn = await say(pool, "m2")
    assert session_of(pool).doubt.health is Health.UNKNOWN
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert screen.turn_states(turn) == ["queued", "running", "succeeded"]
    assert turn not in old.runs
    assert not old.is_alive
    assert session_of(pool).state is SessionState.LIVE
    assert [value for _labels, value in pool.counters.wedged.metric().samples] == [1]


async def test_a_turn_of_one_that_does_not_answer_is_lost_and_says_why(
    world: World, soon_answered: None
) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first, second = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(first))
    world.host.cli().is_deaf = True
    world.host.prepare = lambda _cli: None
    pool._watches.vitals.look({})
    assert "get_binary_version" not in asked(world.host.cli()), "it spoke a moment ago"
    long_ago(world, pool)
    pool._watches.vitals.look({})
    end = await screen.ended(first)
    assert (end["state"], end["reason"]["code"]) == ("lost", "instance_wedged")
    assert (await screen.ended(second))["state"] == "succeeded", "it waited for the next instance"


async def test_one_that_works_in_silence_answers_and_goes_on(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli, instance = world.host.cli(), session_of(pool).instance
    assert instance is not None
    spoken = instance.received_offset - instance.progress.idle_bytes
    long_ago(world, pool)
    pool._watches.vitals.look({})
    await soon(lambda: asked(cli) == ["initialize", "get_binary_version"])
    await soon(lambda: session_of(pool).doubt.health is Health.ALIVE)
    assert instance.received_offset - instance.progress.idle_bytes == spoken, "an answer is no progress"
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"


async def test_without_a_keeper_it_is_unknown_and_nobody_is_ended(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    session = session_of(pool)
    seen = [session.doubt.health]
    pool._around.hosts.first.is_back.clear()
    seen.append(session.doubt.health)
    assert world.host.living
    pool._around.hosts.first.is_back.set()
    await pool.destroy_instance("alice")
    assert [*seen, session.doubt.health] == [Health.ALIVE, Health.UNKNOWN, Health.DEAD]


async def test_an_idle_one_is_never_asked(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    long_ago(world, pool)
    for _ in range(5):
        pool._watches.vitals.look({})
        await asyncio.sleep(0)
    assert asked(world.host.cli()) == ["initialize"]
