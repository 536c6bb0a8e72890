"""An old instance is replaced between two turns, and the user notices nothing."""

from __future__ import annotations

import asyncio

from pool.launch.process_table import WatchedTree
from pool.model import SessionState
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon

AGE = 0.4


async def test_an_old_instance_without_work_is_parked(world: World) -> None:
    pool = await world.start(max_age_seconds=AGE, idle_timeout_seconds=0)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await soon(lambda: not world.host.living)
    await soon(lambda: session_of(pool).state is SessionState.PARKED)
    session = session_of(pool).record.cli_session
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert session_of(pool).record.cli_session == session


async def test_a_turn_outlives_the_age_of_its_instance_and_the_next_one_gets_a_new_instance(
    world: World,
) -> None:
    world.host.prepare = manual
    pool = await world.start(max_age_seconds=AGE)
    screen = await follow(pool)
    first = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(first))
    second = await say(pool, "m2")
    await asyncio.sleep(3 * AGE)
    old = world.host.cli()
    assert screen.turn_states(first) == ["queued", "running"]
    assert old.is_alive
    world.host.prepare = lambda _cli: None
    old.finish()
    assert (await screen.ended(first))["state"] == "succeeded"
    assert (await screen.ended(second))["state"] == "succeeded"
    assert [second in cli.runs for cli in world.host.clis.values()] == [False, True]


async def test_background_work_keeps_an_old_instance(world: World) -> None:
    pool = await world.start(max_age_seconds=AGE)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    changed = {"type": "system", "subtype": "background_tasks_changed"}
    cli = world.host.cli()
    cli.emit({**changed, "tasks": [{"task_id": "t1"}]})
    await soon(lambda: bool(session_of(pool).instance and session_of(pool).instance.background))  # type: ignore[union-attr]
    await asyncio.sleep(2 * AGE)
    await screen.ended(await say(pool, "m2"))
    assert cli.is_alive
    cli.emit({**changed, "tasks": []})
    await soon(lambda: not cli.is_alive)


async def test_an_instance_that_never_served_anybody_serves_once(world: World) -> None:
    pool = await world.start(max_age_seconds=0.0001)
    screen = await follow(pool)
    assert (await screen.ended(await say(pool, "m1")))["state"] == "succeeded"


async def test_a_restart_does_not_make_an_instance_young(world: World) -> None:
    pool = await world.start(max_age_seconds=60)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await world.crash(pool)
    again = await world.start()
    left = session_of(again).idleness._life_left()
    instance = session_of(again).instance
    assert instance is not None
    age = again._around.clock.wall() - instance.started_at
    assert abs(60 - age - left) < 0.5


async def test_after_so_many_turns_the_next_one_goes_to_a_new_instance(world: World) -> None:
    pool = await world.start(recycle_turns=2)
    screen = await follow(pool)
    for n in range(5):
        assert (await screen.ended(await say(pool, f"m{n}")))["state"] == "succeeded"
    assert [len(cli.runs) for cli in world.host.clis.values()] == [2, 2, 1]


async def test_one_that_spins_while_it_is_idle_is_replaced_and_a_quiet_one_is_not(world: World) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(recycle_idle_cpu_seconds=300, idle_timeout_seconds=0)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    session, cli = session_of(pool), world.host.cli()
    await soon(lambda: session.is_idle)
    for step in range(8):  # a hundredth of a core: what an idle CLI takes
        pool._watches.vitals.look({cli.id: WatchedTree(1, 100, 7 + 0.6 * step, ())})
        clock.advance(60)
    assert cli.is_alive
    session.idleness.touch()
    for step in range(5):
        pool._watches.vitals.look({cli.id: WatchedTree(1, 100, 20 + 58.0 * step, ())})
        assert cli.is_alive
        clock.advance(60)
    pool._watches.vitals.look({cli.id: WatchedTree(1, 100, 20 + 58.0 * 5, ())})
    await soon(lambda: not cli.is_alive)
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
