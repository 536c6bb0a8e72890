"""Callers that go away and steps that hang: what was begun is brought to an end all the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from pool import ClaudeInstancePool, errors
from pool.model import InstanceState, SessionState
from tests.pool.conftest import OUTCOMES
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


async def give_up(work: Coroutine[Any, Any, Any], steps: int) -> bool:
    """Run ``work`` and cancel it after so many turns of the loop; was it cancelled?"""
    task = asyncio.create_task(work, name="caller")
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    return task.cancelled()


def is_clean(pool: ClaudeInstancePool, world: World) -> bool:
    return (
        not world.host.living
        and not pool._around.hosts.first.slots.holders
        and session_of(pool).instance is None
    )


async def test_a_first_caller_that_leaves_anywhere_takes_nothing_with_it(world: World) -> None:
    pool = await world.start()
    await pool.create_session("alice", "default")
    left = 0
    for steps in range(0, 60, 2):
        starts = world.host.calls["start"]
        others = []
        first = asyncio.create_task(pool.get_or_create_instance("alice"), name="first")
        for step in range(steps):
            await asyncio.sleep(0)
            if step in (0, steps // 2):
                others.append(asyncio.create_task(pool.get_or_create_instance("alice"), name="other"))
        first.cancel()
        (result,) = await asyncio.gather(first, return_exceptions=True)
        left += isinstance(result, asyncio.CancelledError)
        got = {instance.id for instance in await asyncio.gather(*others)}
        assert len(got) <= 1
        if not others and isinstance(result, asyncio.CancelledError):
            await soon(lambda: not session_of(pool).waking.is_under_way)
        # Whoever comes next finds the one instance that was being started.
        assert (await pool.get_or_create_instance("alice")).state is InstanceState.READY
        assert world.host.calls["start"] <= starts + 1
        assert len(world.host.living) == len(pool._around.hosts.first.slots.holders) == 1
        assert await pool.destroy_instance("alice")
        assert is_clean(pool, world)
    assert left > 5


async def test_an_instance_that_nobody_waited_for_is_parked_as_idle(world: World) -> None:
    pool = await world.start(idle_timeout_seconds=0.1)
    gate = world.host.hold("started")
    caller = asyncio.create_task(pool.get_or_create_instance("alice"), name="caller")
    await soon(lambda: world.host.calls["started"] == 1)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    gate.set()
    await soon(lambda: is_clean(pool, world) and session_of(pool).state is SessionState.PARKED)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_stop_whose_caller_leaves_anywhere_goes_to_its_end(world: World, is_busy: bool) -> None:
    world.host.stop_seconds = 0.002
    pool = await world.start(stop_grace_seconds=0.05)
    screen = await follow(pool)
    left = 0
    for steps in range(1, 25, 4 if is_busy else 1):
        world.host.prepare = manual if is_busy else lambda _cli: None
        turn = await say(pool, f"m{steps}")
        await soon(lambda turn=turn: "running" in screen.turn_states(turn))  # type: ignore[misc]
        if is_busy:
            world.host.cli().ignores_interrupts = True
        else:
            await screen.ended(turn)
        left += await give_up(pool.destroy_instance("alice"), steps)
        await screen.ended(turn)
        # The next message is not stuck behind an instance that nobody ends.
        world.host.prepare = lambda _cli: None
        following = await say(pool, f"n{steps}")
        assert (await screen.ended(following))["state"] == "succeeded"
        assert len(world.host.living) == 1
        await pool.destroy_instance("alice")
        assert is_clean(pool, world)
    assert left > 2
    endings = [frame["turn_id"] for frame in screen.of_type("turn") if frame["state"] in OUTCOMES]
    assert len(endings) == len(set(endings))


async def test_a_shutdown_whose_caller_leaves_anywhere_goes_to_its_end(world: World) -> None:
    left = 0
    for steps in range(1, 40, 3):
        pool = await world.start()
        for name in ("a", "b"):
            await pool.get_or_create_instance("alice", name)
        left += await give_up(pool.shutdown(drain_timeout_seconds=0), steps)
        await pool.shutdown(drain_timeout_seconds=0)
        assert not world.host.living
        assert not pool._around.hosts.first.slots.holders
        assert not pool._around.tasks._tasks
        world.pools.remove(pool)
    assert left > 5


async def test_a_program_that_hangs_in_its_start_is_given_up_in_time(world: World) -> None:
    pool = await world.start(start_timeout_seconds=0.2, max_instances=1)
    gate = world.host.hold("started")
    with pytest.raises(errors.LaunchFailed) as failure:
        await pool.get_or_create_instance("alice")
    assert failure.value.details["step"] == "process"
    assert is_clean(pool, world)
    gate.set()
    assert (await pool.get_or_create_instance("bob")).state is InstanceState.READY


async def test_a_disk_that_hangs_in_a_start_is_given_up_in_time(world: World) -> None:

    pool = await world.start(start_timeout_seconds=0.2)
    ensure, gate = pool._around.workspaces.ensure, threading.Event()

    def slow(*words: Any, **more: Any) -> Any:
        gate.wait(10)
        return ensure(*words, **more)

    pool._around.workspaces.ensure = slow  # type: ignore[method-assign]
    with pytest.raises(errors.LaunchFailed) as failure:
        await pool.get_or_create_instance("alice")
    assert failure.value.details["step"] == "workspace"
    assert not pool._around.hosts.first.slots.holders
    gate.set()
    assert (await pool.get_or_create_instance("alice")).state is InstanceState.READY


async def test_the_disks_of_all_users_are_looked_at_once_and_not_for_every_start(world: World) -> None:
    pool = await world.start()
    around, looks = pool._around, list[str]()
    ensure = around.workspaces.ensure

    def look() -> int:
        looks.append("look")
        return 0

    around.hosts.first.launcher.uid_range = lambda: (200_000, 200_100)  # type: ignore[method-assign]
    around.workspaces.highest_uid = look  # type: ignore[method-assign]
    around.workspaces.ensure = lambda user, template, **_more: ensure(user, template)  # type: ignore[method-assign]
    for user in ("alice", "bob"):
        assert (await pool.get_or_create_instance(user)).state is InstanceState.READY
    assert looks == ["look"]


async def test_an_order_that_a_frozen_keeper_never_takes_does_not_hang_the_caller(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.runtime.instance._KEEPER_SECONDS", -7.0)
    pool = await world.start()
    await pool.get_or_create_instance("alice")
    world.host.hold("stop")
    async with asyncio.timeout(5):
        assert not await pool.destroy_instance("alice")
    instance = session_of(pool).instance
    assert instance is not None
    # Nobody knows that it is gone: its slot stays taken and a person is told.
    assert instance.state is InstanceState.STUCK
    assert session_of(pool).state is SessionState.FAULTED
    assert len(pool._around.hosts.first.slots.holders) == 1
    world.host.gates["stop"].set()
    world.host.cli().die(signal="SIGKILL")
    await soon(lambda: is_clean(pool, world))
