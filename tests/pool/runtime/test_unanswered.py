"""A start is given up and the host does not say whether there is a process: unknown is not dead."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pool import ClaudeInstancePool, errors
from pool.model import InstanceState, SessionState
from tests.pool.conftest import MakePool
from tests.pool.runtime.conftest import World, follow, say, session_of, soon


async def figure(pool: ClaudeInstancePool, name: str, *labels: str) -> float:
    found = {metric.name: dict(metric.samples) for metric in await pool.metrics()}
    value = found[name][labels]
    assert isinstance(value, int | float)
    return value


async def given_up(pool: ClaudeInstancePool) -> None:
    with pytest.raises(errors.LaunchFailed):
        await pool.get_or_create_instance("alice")


@pytest.mark.parametrize("keeper_dies", [False, True])
async def test_the_slot_stays_taken_until_the_host_answers_or_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch, keeper_dies: bool
) -> None:
    monkeypatch.setattr("pool.runtime.instance._KEEPER_SECONDS", -7.0)
    pool = await world.start(start_timeout_seconds=1.0, max_instances=1)
    started, answered = world.host.hold("started"), world.host.hold("abandon")
    await given_up(pool)
    session = session_of(pool)
    assert session.instance is not None
    assert session.instance.state is InstanceState.STUCK
    assert session.state is SessionState.FAULTED
    assert len(pool._around.hosts.first.slots.holders) == 1
    # A person is told.
    health = pool.health()
    assert (health["instances"]["stuck"], health["checks"]["stuck"]["ok"]) == (1, False)
    assert health["status"] == "degraded"
    assert await figure(pool, "claude_pool_instances", "stuck") == 1
    assert pool.counters.kills.value("stuck") == 1
    # There is no second process beside one that may live.
    with pytest.raises(errors.PoolFull):
        await pool.get_or_create_instance("bob")
    with pytest.raises(errors.Conflict):
        await pool.get_or_create_instance("alice")
    started.set()
    if keeper_dies:
        world.host.lose_keeper()
    answered.set()
    await soon(lambda: not pool._around.hosts.first.slots.holders, "the slot is given back")
    assert not world.host.living
    assert pool.health()["checks"]["stuck"]["ok"]
    screen = await follow(pool)
    assert (await screen.ended(await say(pool, "m1")))["state"] == "succeeded"


async def test_a_host_that_answers_late_costs_nothing(world: World) -> None:
    pool = await world.start(start_timeout_seconds=1.0)
    started, answered = world.host.hold("started"), world.host.hold("abandon")
    starting = asyncio.create_task(given_up(pool), name="starting")
    await soon(lambda: world.host.calls["abandon"])
    assert len(pool._around.hosts.first.slots.holders) == 1
    started.set()
    answered.set()
    await starting
    assert not pool._around.hosts.first.slots.holders
    assert not world.host.living
    assert session_of(pool).state is SessionState.PARKED
    assert (await pool.get_or_create_instance("alice")).state is InstanceState.READY


async def test_a_frozen_keeper_keeps_the_slot_and_gives_it_back_when_it_goes_on(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.launch.local._ABANDON_SECONDS", 0.2)
    monkeypatch.setattr("pool.runtime.instance._KEEPER_SECONDS", -5.5)
    pool = await make_pool(start_timeout_seconds=0.5, max_instances=1)
    [keeper] = pool._around.hosts.first.launcher.supervisor_pids()
    assert await figure(pool, "claude_pool_keeper_open_fds") == len(os.listdir(f"/proc/{keeper}/fd"))
    os.kill(keeper, signal.SIGSTOP)
    try:
        await given_up(pool)
        assert pool.health()["instances"]["stuck"] == 1
        with pytest.raises(errors.PoolFull):
            await pool.get_or_create_instance("bob")
    finally:
        os.kill(keeper, signal.SIGCONT)
    await soon(
        lambda: not pool._around.hosts.first.slots.holders, "the keeper ended what it had started late"
    )
    assert not [one for one in await pool._around.hosts.first.launcher.list() if one.exit_status is None]
    assert pool.health()["instances"]["total"] == 0
