"""How a session gets its one instance, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool import errors
from pool.model import InstanceState, SessionState
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


async def test_many_callers_get_one_instance(world: World) -> None:
    pool = await world.start()
    instances = await asyncio.gather(*(pool.get_or_create_instance("alice") for _ in range(50)))
    assert len({instance.id for instance in instances}) == 1
    assert world.host.calls["start"] == 1


@pytest.mark.parametrize("call", ["start", "started", "write"])
async def test_a_launch_that_fails_leaves_nothing_and_the_next_one_works(world: World, call: str) -> None:
    pool = await world.start()
    await pool.create_session("alice", "default")
    world.host.fail(call, errors.LaunchFailed("no"))
    results = await asyncio.gather(
        *(pool.get_or_create_instance("alice") for _ in range(5)), return_exceptions=True
    )
    assert {type(result) for result in results} == {errors.LaunchFailed}
    assert not world.host.living
    assert not pool._around.hosts.first.slots.holders
    assert session_of(pool).state is SessionState.PARKED
    assert (await pool.get_or_create_instance("alice")).state is InstanceState.READY


async def test_a_message_whose_launch_fails_is_accepted_and_fails(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    world.host.fail("start", errors.LaunchFailed("no CLI", details={"exit_code": 3}))
    turn = await say(pool, "m1")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("failed", "launch_failed")
    assert ending["reason"]["exit_code"] == 3
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


async def test_what_the_file_system_refuses_is_a_typed_error(world: World) -> None:
    pool = await world.start()

    def broken(*_: Any) -> None:
        raise RuntimeError("nobody expected this")

    pool._around.workspaces.ensure = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(errors.LaunchFailed):
        await pool.get_or_create_instance("alice")
    assert not pool._around.hosts.first.slots.holders


async def test_an_exit_in_the_same_packet_as_the_answer_is_a_failed_launch(world: World) -> None:
    pool = await world.start()

    def exits(cli: Any) -> None:
        cli.exits_when_ready = True

    world.host.prepare = exits
    screen = await follow(pool)
    turn = await say(pool, "m1")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("failed", "launch_failed")
    assert ending["reason"]["exit_code"] == 7
    assert session_of(pool).state is SessionState.PARKED
    assert not pool._around.hosts.first.slots.holders


async def test_archiving_gives_up_a_launch_and_a_new_message_begins_another(world: World) -> None:
    pool = await world.start()
    gate = world.host.hold("started")
    screen = await follow(pool)
    first = await say(pool, "m1")
    await soon(lambda: world.host.calls["started"] == 1)
    await pool.archive_session("alice", "default")
    second = await say(pool, "m2")
    gate.set()
    assert (await screen.ended(first))["state"] == "withdrawn"
    assert (await screen.ended(second))["state"] == "succeeded"
    assert len(world.host.living) == 1
    assert len(pool._around.hosts.first.slots.holders) == 1


async def test_a_message_after_archiving_waits_for_the_end_of_the_old_process(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    gate = world.host.hold("stop")
    await pool.archive_session("alice", "default")
    turn = await say(pool, "m2")
    await soon(lambda: world.host.calls["stop"] == 1)
    assert len(world.host.clis) == 1
    gate.set()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(world.host.living) == 1
    await soon(lambda: len(pool._around.hosts.first.slots.holders) == 1)


async def test_a_process_that_outlives_kill_keeps_its_slot_and_faults_its_session(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    cli = world.host.cli()
    cli.outlives_kill = True
    session = session_of(pool)
    assert session.instance is not None
    instance = session.instance
    await instance.end(type(_graces())(end_of_input=0, term=0, kill=-2), "a test")
    assert instance.state is InstanceState.STUCK
    assert session.state is SessionState.FAULTED
    assert session.key in pool._around.hosts.first.slots.holders
    turn = await say(pool, "m2")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("withdrawn", "conflict")
    assert len(world.host.living) == 1
    with pytest.raises(errors.Conflict):
        await pool.get_or_create_instance("alice")
    cli.die(signal="SIGKILL")
    await soon(lambda: not pool._around.hosts.first.slots.holders)
    assert (await screen.ended(await say(pool, "m3")))["state"] == "succeeded"


def _graces() -> Any:
    from pool.launch.base import StopGraces

    return StopGraces()


async def test_destroying_gives_up_a_launch(world: World) -> None:
    pool = await world.start()
    world.host.hold("started")
    screen = await follow(pool)
    waiter = asyncio.create_task(pool.get_or_create_instance("alice"), name="waiter")
    await soon(lambda: world.host.calls["started"] == 1)
    turn = await say(pool, "m1")
    assert await pool.destroy_instance("alice")
    with pytest.raises(errors.LaunchFailed):
        await waiter
    assert (await screen.ended(turn))["state"] == "withdrawn"
    assert not world.host.living
    assert not pool._around.hosts.first.slots.holders
    assert session_of(pool).state is SessionState.PARKED


async def test_shutting_down_while_waking_is_quick_and_keeps_the_message(world: World) -> None:
    pool = await world.start()
    world.host.hold("started")
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: world.host.calls["started"] == 1)
    async with asyncio.timeout(30):
        await pool.shutdown(drain_timeout_seconds=0)
    assert not world.host.living
    world.pools.remove(pool)
    world.host.gates.clear()
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(turn))["state"] == "succeeded"
    assert screen.turn_states(turn) == ["queued"]


async def test_a_shutdown_in_a_turn_keeps_the_queue_for_the_next_server(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    running = await say(pool, "m1")
    queued = await say(pool, "m2")
    await soon(lambda: "running" in screen.turn_states(running))
    await pool.shutdown(drain_timeout_seconds=0)
    assert screen.turn_states(running)[-1] == "interrupted"
    assert screen.turn_states(queued) == ["queued"]
    world.pools.remove(pool)
    world.host.prepare = lambda _cli: None
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(queued))["state"] == "succeeded"


async def test_a_launch_given_up_anywhere_leaves_nothing(world: World) -> None:
    pool = await world.start()
    await pool.create_session("alice", "default")
    session = session_of(pool)
    given_up = 0
    for steps in range(60):
        waiter = asyncio.create_task(pool.get_or_create_instance("alice"), name="waiter")
        while not session.waking.is_under_way and not waiter.done():
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        session.waking.give_up()
        (result,) = await asyncio.gather(waiter, return_exceptions=True)
        if isinstance(result, BaseException):
            given_up += 1
            assert isinstance(result, errors.LaunchFailed)
            assert not world.host.living
            assert not pool._around.hosts.first.slots.holders
            assert session.instance is None
            assert session.state is SessionState.PARKED
        else:
            assert len(world.host.living) == 1
            assert await pool.destroy_instance("alice")
    assert given_up > 5


async def test_a_keeper_that_dies_during_a_launch_costs_a_queued_message_nothing(world: World) -> None:
    pool = await world.start()
    gate = world.host.hold("started")
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: world.host.calls["started"] == 1)
    world.host.lose_keeper()
    gate.set()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert len(world.host.living) == 1


async def test_a_keeper_that_dies_in_the_handshake_leaves_one_clean_session(world: World) -> None:
    pool = await world.start()

    def mute(cli: Any) -> None:
        cli.is_mute = True

    world.host.prepare = mute
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: world.host.calls["write"] == 1)
    world.host.prepare = lambda _cli: None
    world.host.lose_keeper()
    await screen.ended(turn)
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert len(world.host.living) == 1
    assert len(pool._around.hosts.first.slots.holders) == 1
