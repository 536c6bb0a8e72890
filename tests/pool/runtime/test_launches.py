"""A host on which nothing starts: launches are held, what runs goes on, and it heals by itself."""

from __future__ import annotations

import asyncio

import pytest

from pool import ClaudeInstancePool, errors
from pool.model import TurnState
from tests.fakes.fake_clock import FakeClock
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, soon


async def broken(world: World, users: list[str], pool: ClaudeInstancePool) -> None:
    """One launch of each fails."""
    for user in users:
        world.host.fail("start", errors.LaunchFailed("no such program", details={"step": "exec"}))
        with pytest.raises(errors.LaunchFailed):
            await pool.get_or_create_instance(user)


async def test_failures_of_several_users_hold_launches_and_what_runs_goes_on(world: World) -> None:
    world.host.prepare = manual
    clock = world.clock = FakeClock()
    pool = await world.start(max_instances=10)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    await broken(world, ["bob", "carol", "dave", "bob", "carol"], pool)
    calls = world.host.calls["start"]
    with pytest.raises(errors.LaunchesPaused) as refused:
        await pool.get_or_create_instance("erin")
    assert refused.value.retry_after_seconds == 15
    with pytest.raises(errors.LaunchesPaused):
        await pool.submit("erin", "default", "hello", message_id="e1")
    assert world.host.calls["start"] == calls, "nothing was tried"
    assert not pool.health()["checks"]["launches"]["ok"]
    assert "exec" in pool.health()["checks"]["launches"]["detail"]
    assert pool._around.hosts.first.slots.queue_length == 0
    more = await say(pool, "m2")  # who has an instance is not held
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    await soon(lambda: "running" in screen.turn_states(more))
    world.host.cli().finish()
    clock.advance(16)
    await pool.get_or_create_instance("erin")
    assert pool.health()["checks"]["launches"]["ok"]
    await pool.get_or_create_instance("bob")
    await screen.ended(more)


async def test_one_users_crashes_stop_nobody_else(world: World) -> None:
    world.clock = FakeClock()
    pool = await world.start(max_instances=10)
    await broken(world, ["bob"] * 30, pool)
    await pool.get_or_create_instance("carol")
    assert pool.health()["checks"]["launches"]["ok"]


async def test_a_turn_that_was_accepted_before_waits_until_it_works_again(world: World) -> None:
    pool = await world.start(max_instances=1, queue_timeout_seconds=30)
    breaker = pool._around.hosts.first.launches.breaker
    breaker._rules = type(breaker._rules)(first_pause_seconds=0.2, probe_seconds=0.05)
    breaker._pause = 0.2
    world.host.prepare = manual
    busy = await follow(pool, "busy")
    first = await say(pool, "m1", "busy")
    await soon(lambda: "running" in busy.turn_states(first))
    screen = Screen()
    await pool.subscribe("erin", "default", None, screen)
    waiting = await pool.submit("erin", "default", "hello", message_id="e1")
    for n in range(5):
        breaker.failed(("bob", "carol", "dave")[n % 3], pool._around.clock.monotonic())  # type: ignore[arg-type]
    world.host.prepare = lambda _cli: None
    world.host.cli("busy").finish()
    await busy.ended(first)
    assert (await screen.ended(waiting.turn_id))["state"] == TurnState.SUCCEEDED.value
    assert not pool._around.hosts.first.launches.are_paused


async def test_who_waited_too_long_for_a_host_is_told_and_its_slot_is_free(world: World) -> None:
    pool = await world.start(max_instances=1, queue_timeout_seconds=0.1)
    breaker = pool._around.hosts.first.launches.breaker
    world.host.prepare = manual
    busy = await follow(pool, "busy")
    first = await say(pool, "m1", "busy")
    await soon(lambda: "running" in busy.turn_states(first))
    for n in range(5):
        breaker.failed(("bob", "carol", "dave")[n % 3], pool._around.clock.monotonic())  # type: ignore[arg-type]
    session = pool._supervisor.sessions[next(iter(pool._supervisor.sessions))]
    world.host.cli("busy").finish()
    await busy.ended(first)
    await pool.destroy_instance("alice", "busy")
    await soon(lambda: session.instance is None)
    with pytest.raises(errors.LaunchesPaused):
        await session.waking.instance(may_wait=True)
    await asyncio.sleep(0)
    assert not pool._around.hosts.first.slots.holders
