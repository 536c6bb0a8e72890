"""The Python view: one turn's frames, and no other's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool import errors
from pool.runtime.pooled import PooledInstance
from tests.pool.runtime.conftest import World, manual, say, session_of, soon


async def frames_of(instance: PooledInstance, text: str, **more: Any) -> list[dict[str, Any]]:
    return [frame async for frame in instance.ask(text, **more)]


async def test_two_asks_at_once_each_get_their_own_frames(world: World) -> None:
    pool = await world.start()
    instance = await pool.get_or_create_instance("alice")
    first, second = await asyncio.gather(frames_of(instance, "one"), frames_of(instance, "two"))
    for frames in (first, second):
        assert [frame["type"] for frame in frames].count("result") == 1
    ids = [{frame["command_uuid"] for frame in f if "command_uuid" in frame} for f in (first, second)]
    assert not ids[0] & ids[1]


async def test_a_message_that_was_asked_before_ends_at_once(world: World) -> None:
    pool = await world.start()
    instance = await pool.get_or_create_instance("alice")
    assert await frames_of(instance, "one", message_id="m1")
    async with asyncio.timeout(30):
        assert await frames_of(instance, "one", message_id="m1") == []


async def test_a_process_that_ends_under_the_turn_is_told(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start()
    instance = await pool.get_or_create_instance("alice")
    task = asyncio.create_task(frames_of(instance, "one"), name="ask")
    await soon(lambda: world.host.cli().current)
    world.host.cli().die(signal="SIGKILL")
    with pytest.raises(errors.InstanceGone, match="SIGKILL"):
        await task
    assert not instance.is_healthy
    assert not session_of(pool).channel.subscriptions


async def test_an_answer_larger_than_the_budget_comes_whole(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(viewer_budget_bytes=1000)
    instance = await pool.get_or_create_instance("alice")
    task = asyncio.create_task(frames_of(instance, "one"), name="ask")
    await soon(lambda: world.host.cli().current)
    for number in range(300):
        world.host.cli().delta(str(number))
    world.host.cli().finish()
    frames = await task
    deltas = [frame["event"]["delta"]["text"] for frame in frames if frame["type"] == "stream_event"]
    assert deltas == [str(number) for number in range(300)]


async def test_a_health_check_counts_failures_and_forgets_them(world: World) -> None:
    pool = await world.start()
    instance = await pool.get_or_create_instance("alice")
    world.host.cli().is_mute = True
    assert not await instance.health_check(timeout_seconds=0.02)
    assert not await instance.health_check(timeout_seconds=0.02)
    assert instance.failures == 2
    world.host.cli().is_mute = False
    assert await instance.health_check()
    await say(pool, "m1")
    assert instance.workspace.is_dir()
