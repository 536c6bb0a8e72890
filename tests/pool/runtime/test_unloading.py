"""Sessions that nobody needs leave memory, and whoever comes back notices nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest

from pool import ClaudeInstancePool, errors
from pool.model import SessionState
from pool.runtime.hub import RESTING_RING_BYTES
from pool.runtime.unloading import held
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import ALICE, World, follow, manual, say, session_of, soon


async def at_rest(world: World, **settings: object) -> tuple[FakeClock, ClaudeInstancePool]:
    """A pool with one parked session that had a turn."""
    clock = FakeClock()
    world.clock = clock
    pool = await world.start(unload_seconds=300, **settings)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await pool.destroy_instance("alice")
    await session_of(pool).log.settled()
    for subscription in tuple(session_of(pool).channel.subscriptions):
        subscription.close()
    await soon(lambda: session_of(pool).log.is_settled)
    return clock, pool


async def test_a_parked_session_that_nobody_views_leaves_memory(world: World) -> None:
    clock, pool = await at_rest(world)
    session = weakref.ref(session_of(pool))
    look = pool._watches.unloading.look
    clock.advance(299)
    await look()
    assert ALICE in pool._supervisor.sessions
    clock.advance(2)
    await look()
    assert pool._supervisor.sessions == {}
    assert not pool._admission._queueing
    launcher = world.host.attached
    assert launcher is not None
    for kept in (launcher.sinks, launcher.handles, world.host.clis):
        kept.clear()  # the fake host keeps those of the dead
    gc.collect()
    assert session() is None, "nothing keeps it"
    assert [value for _labels, value in pool.counters.unloaded.metric().samples] == [1]


async def test_a_live_session_at_rest_keeps_few_frames_and_a_viewer_reads_the_others_from_the_log(
    world: World,
) -> None:
    clock = FakeClock()
    world.clock = clock
    pool = await world.start(unload_seconds=300)
    screen = await follow(pool)
    for number in range(3):
        accepted = await pool.submit("alice", "default", "word " * 8_000, message_id=f"m{number}")
        await screen.ended(accepted.turn_id)
    channel = session_of(pool).channel
    seen = [frame for frame in screen.frames if frame["type"] not in ("subscribed", "delta")]
    full = channel._ring_size
    assert full > RESTING_RING_BYTES
    look = pool._watches.unloading.look
    clock.advance(299)
    await look()
    assert channel._ring_size == full
    clock.advance(2)
    await look()
    assert ALICE in pool._supervisor.sessions, "somebody follows it"
    assert channel._ring_size <= RESTING_RING_BYTES
    again = await follow(pool, cursor="0")
    await soon(
        lambda: [frame for frame in again.frames if frame["type"] not in ("subscribed", "delta")] == seen,
        "all of it is read from the log",
    )
    await screen.ended(await say(pool, "m4"))


async def test_whoever_comes_back_finds_everything(world: World) -> None:
    clock, pool = await at_rest(world)
    before = session_of(pool)
    head, uuid, turns = before.channel.head, before.record.cli_session, before.next_turn_number
    clock.advance(301)
    await pool._watches.unloading.look()
    (listed,) = await pool.list_sessions("alice")
    assert pool._supervisor.sessions == {}, "a list loads nobody"
    assert (listed.state, listed.cursor) == (SessionState.PARKED, head)
    screen = await follow(pool, cursor="0")
    after = session_of(pool)
    assert after is not before
    assert (after.channel.head, after.record.cli_session, after.next_turn_number) == (head, uuid, turns)
    await soon(lambda: [f["state"] for f in screen.of_type("turn")] == ["queued", "running", "succeeded"])
    turn = await say(pool, "m2")
    assert (await screen.ended(turn))["state"] == "succeeded"
    again = await pool.submit("alice", "default", "words m1", message_id="m1")
    assert again.repeated
    assert [turn in cli.runs for cli in world.host.living] == [True]


@pytest.mark.parametrize("why", ["viewer", "turn", "approval", "cooling", "use"])
async def test_who_is_needed_stays(world: World, why: str) -> None:
    world.host.prepare = manual
    clock = world.clock = FakeClock()
    pool = await world.start(unload_seconds=300)
    screen = await follow(pool)
    session = session_of(pool)
    if why in ("turn", "approval"):
        turn = await say(pool, "m1")
        await soon(lambda: "running" in screen.turn_states(turn))
        if why == "approval":
            world.host.cli().ask("r1")
            await soon(lambda: session.approvals.has_open)
    if why == "cooling":
        await pool.get_or_create_instance("alice")
        world.host.cli().die(1)
        await soon(lambda: session.state is SessionState.COOLING)
    if why != "viewer":
        for subscription in tuple(session.channel.subscriptions):
            subscription.close()
    clock.advance(1000)
    with held(session) if why == "use" else nullcontext():
        await pool._watches.unloading.look()
    assert ALICE in pool._supervisor.sessions


async def test_a_session_that_is_being_loaded_is_not_dropped_under_its_reader(world: World) -> None:
    clock, pool = await at_rest(world)
    clock.advance(301)
    await pool._watches.unloading.look()
    store: Any = pool._around.store
    gate, real = asyncio.Event(), store.message_ids

    entered = asyncio.Event()

    async def slow(key: object) -> object:
        entered.set()
        await gate.wait()
        return await real(key)

    store.message_ids = slow
    first = asyncio.create_task(pool.get_session("alice", "default"))
    await entered.wait()
    store.message_ids = real
    await pool.get_session("alice", "default")
    session = session_of(pool)
    clock.advance(1000)
    await pool._watches.unloading.look()
    assert session_of(pool) is session, "somebody reads its rows: what they make of them must not replace it"
    gate.set()
    await first
    assert session_of(pool) is session
    clock.advance(1000)
    await pool._watches.unloading.look()
    assert pool._supervisor.sessions == {}


async def test_what_is_left_of_a_dropped_session_cannot_write(world: World) -> None:
    clock, pool = await at_rest(world)
    session = session_of(pool)
    clock.advance(301)
    await pool._watches.unloading.look()
    session.patch(title="a late word")
    with pytest.raises(errors.StoreUnavailable):
        await session.log.settled()


async def test_memory_follows_those_who_are_used(world: World) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(unload_seconds=300, max_instances=50)
    for n in range(200):
        await pool.create_session("alice" if n % 2 else "bob", f"s{n}")
        clock.advance(10)
        if n % 10 == 0:
            await pool._watches.unloading.look()
            assert len(pool._supervisor.sessions) <= 41
