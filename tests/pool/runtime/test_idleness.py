"""When a session may rest, and when it may not."""

from __future__ import annotations

import asyncio

import pytest

from pool.model import SessionState
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon

TIMEOUT = 0.1


async def test_a_session_that_nobody_uses_is_parked_and_told_so(world: World) -> None:
    pool = await world.start(idle_timeout_seconds=TIMEOUT)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await soon(lambda: not world.host.living)
    await soon(lambda: screen.of_type("session")[-1]["state"] == "parked")
    assert not pool._around.hosts.first.slots.holders
    assert session_of(pool).idleness._timer is None


async def test_a_timeout_of_zero_means_never(world: World) -> None:
    pool = await world.start(idle_timeout_seconds=0, max_age_seconds=0)
    await pool.get_or_create_instance("alice")
    assert session_of(pool).idleness._timer is None


async def test_a_turn_may_last_longer_than_the_idle_time(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(idle_timeout_seconds=TIMEOUT)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    await asyncio.sleep(3 * TIMEOUT)
    assert world.host.living
    world.host.cli().finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    await soon(lambda: not world.host.living)


async def test_background_work_keeps_the_instance(world: World) -> None:
    pool = await world.start(idle_timeout_seconds=TIMEOUT)
    await pool.get_or_create_instance("alice")
    changed = {"type": "system", "subtype": "background_tasks_changed"}
    world.host.cli().emit({**changed, "tasks": [{"task_id": "t1"}]})
    await asyncio.sleep(3 * TIMEOUT)
    assert world.host.living
    world.host.cli().emit({**changed, "tasks": []})
    await soon(lambda: not world.host.living)


async def test_an_open_approval_keeps_the_instance(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(idle_timeout_seconds=TIMEOUT)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().ask("r1")
    await asyncio.sleep(3 * TIMEOUT)
    assert world.host.living
    await pool.interrupt("alice", "default")
    assert (await screen.ended(turn))["state"] == "interrupted"


async def test_parking_twice_is_parking_once(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    idleness = session_of(pool).idleness
    idleness._over()
    idleness._over()
    idleness.park("again")
    await soon(lambda: not world.host.living)
    await soon(lambda: session_of(pool).state is SessionState.PARKED)
    idleness.park("nothing there")
    assert len(world.host.clis) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.3])
async def test_a_drain_lets_a_turn_end_and_begins_no_other(world: World, seconds: float) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    first, second = await say(pool, "m1"), await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(first))
    cli = world.host.cli()
    drain = asyncio.create_task(pool._supervisor.drain(5 if seconds else 0), name="drain")
    await asyncio.sleep(seconds)
    cli.finish()
    await drain
    assert (await screen.ended(first))["state"] == "succeeded"
    await asyncio.sleep(0.05)
    assert cli.runs == [first]
    assert screen.turn_states(second) == ["queued"]


async def test_stopping_a_busy_instance_asks_it_to_end_its_turn_first(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli = world.host.cli()
    assert await pool.destroy_instance("alice")
    kinds = [frame["request"]["subtype"] for frame in cli.input if frame["type"] == "control_request"]
    assert kinds == ["initialize", "interrupt"]
    results = [f for f in screen.of_type("event") if f["event"]["type"] == "result"]
    assert len(results) == 1, "the CLI told the end of the turn by itself before it was ended"
    assert screen.turn_states(turn)[-1] == "interrupted"


async def test_users_are_stopped_without_touching_others(world: World) -> None:
    pool = await world.start()
    await pool.get_or_create_instance("alice", "one")
    await pool.get_or_create_instance("alice", "two")
    bob = await pool.get_or_create_instance("bob")
    await pool.stop_user("alice")
    assert [info.id for info in pool.instances()] == [bob.id]
    assert await pool.stop_instance(bob.id)
    assert not await pool.stop_instance(bob.id)
    assert pool.instances() == []


DAY = 86400.0


@pytest.mark.parametrize("jump", [0.0, DAY, -DAY], ids=["no jump", "a day on", "a day back"])
async def test_the_idle_time_goes_on_over_a_restart_whoever_sets_the_clock(world: World, jump: float) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(idle_timeout_seconds=900, max_age_seconds=0)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await session_of(pool).log.settled()
    clock.advance(600)
    await world.crash(pool)
    clock.set_wall(clock.wall() + jump)
    clock.advance(100)
    again = await world.start()
    idleness = session_of(again).idleness
    assert clock.monotonic() - idleness.since == 700
    timer = idleness._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(200, abs=2)
    assert world.host.living, "nobody is parked early"


async def test_who_was_idle_for_too_long_is_parked_by_the_next_server(world: World) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(idle_timeout_seconds=900)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await session_of(pool).log.settled()
    await world.crash(pool)
    clock.advance(901)
    again = await world.start()
    await soon(lambda: not world.host.living)
    await soon(lambda: session_of(again).state is SessionState.PARKED)
    later = await follow(again)
    assert (await later.ended(await say(again, "m2")))["state"] == "succeeded"


async def test_the_age_of_an_instance_does_not_follow_the_wall_clock(world: World) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(max_age_seconds=3600)
    await pool.get_or_create_instance("alice")
    await session_of(pool).log.settled()
    await world.crash(pool)
    clock.advance(600)
    clock.set_wall(clock.wall() + DAY)
    again = await world.start()
    assert session_of(again).idleness._life_left() == 3000


async def test_a_viewer_wakes_a_session_once_also_over_a_restart(world: World) -> None:
    pool = await world.start(idle_timeout_seconds=900)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await pool.destroy_instance("alice")
    await follow(pool)
    await soon(lambda: session_of(pool).state is SessionState.LIVE)
    session_of(pool).idleness.park("idle")
    await soon(lambda: session_of(pool).state is SessionState.PARKED)
    await session_of(pool).log.settled()
    await world.crash(pool)
    again = await world.start()
    await follow(again)
    await asyncio.sleep(0.05)
    assert session_of(again).state is SessionState.PARKED, "it was woken for nothing once already"
    later = await follow(again)
    await later.ended(await say(again, "m2"))
    await again.destroy_instance("alice")
    await follow(again)
    await soon(lambda: session_of(again).state is SessionState.LIVE, "a new idle period began")


async def test_the_idle_time_begins_when_background_work_ends(world: World) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(idle_timeout_seconds=900)
    await pool.get_or_create_instance("alice")
    changed = {"type": "system", "subtype": "background_tasks_changed"}
    world.host.cli().emit({**changed, "tasks": [{"task_id": "t1"}]})
    session = session_of(pool)
    await soon(lambda: session.instance is not None and session.instance.background)
    clock.advance(5000)
    world.host.cli().emit({**changed, "tasks": []})
    await soon(lambda: session.instance is not None and not session.instance.background)
    assert session.idleness.since == clock.monotonic()
    assert world.host.living
