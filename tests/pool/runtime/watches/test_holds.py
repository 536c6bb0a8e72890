"""An approval that nobody answers does not keep others waiting for ever."""

from __future__ import annotations

import asyncio

import pytest

from pool import ClaudeInstancePool, Quota, QuotaBook, errors
from pool.model import SessionState
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon

HOLD = 0.3


async def asking(world: World, pool: ClaudeInstancePool, session: str = "default") -> tuple[Screen, str]:
    """A session whose turn waits for an approval."""
    world.host.prepare = manual
    screen = await follow(pool, session)
    turn = await say(pool, "m1", session)
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli(session).ask("r1")
    await soon(lambda: screen.of_type("permission_request"))
    world.host.prepare = lambda _cli: None
    return screen, turn


async def look_for(pool: ClaudeInstancePool, seconds: float) -> None:
    for _ in range(int(seconds / 0.02)):
        await pool._watches.holds.look()
        await asyncio.sleep(0.02)


async def test_a_waiter_gets_the_place_and_the_conversation_goes_on_later(world: World) -> None:
    pool = await world.start(max_instances=1, approval_hold_seconds=HOLD)
    screen, turn = await asking(world, pool)
    behind = await say(pool, "m2")
    bob = Screen()
    await pool.subscribe("bob", "default", None, bob)
    other = (await pool.submit("bob", "default", "hi", message_id="m1")).turn_id
    await look_for(pool, 2 * HOLD)
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("interrupted", "approval_expired")
    assert [frame["decision"] for frame in screen.of_type("permission_resolved")] == ["withdrawn"]
    assert (await bob.ended(other))["state"] == "succeeded"
    with pytest.raises(errors.AlreadyResolved):
        await pool.answer_permission("alice", "default", "r1", "allow", answered_by="alice")
    assert (await screen.ended(behind))["state"] == "succeeded", "what was queued behind it runs later"


async def test_without_a_waiter_an_approval_waits_for_ever(world: World) -> None:
    pool = await world.start(max_instances=2, approval_hold_seconds=HOLD)
    screen, turn = await asking(world, pool)
    assert (await pool.submit("bob", "default", "hi", message_id="m1")).turn_id
    await look_for(pool, 3 * HOLD)
    assert screen.turn_states(turn)[-1] == "running"
    assert len(await pool.permissions("alice", "default")) == 1


async def test_a_young_approval_keeps_its_place(world: World) -> None:
    pool = await world.start(max_instances=1, approval_hold_seconds=60, queue_timeout_seconds=0.5)
    screen, turn = await asking(world, pool)
    bob = Screen()
    await pool.subscribe("bob", "default", None, bob)
    other = (await pool.submit("bob", "default", "hi", message_id="m1")).turn_id
    await look_for(pool, 0.3)
    assert (await bob.ended(other))["reason"]["code"] == "pool_full"
    assert screen.turn_states(turn)[-1] == "running"


async def test_somebody_elses_approval_is_no_help_at_a_limit_of_ones_own(world: World) -> None:
    quotas = QuotaBook(default=Quota(max_instances=1, turns_per_minute=None))
    pool = await world.start(max_instances=9, approval_hold_seconds=HOLD, quotas=quotas)
    screen, turn = await asking(world, pool)
    world.host.prepare = manual
    bob = Screen()
    await pool.subscribe("bob", "one", None, bob)
    running = (await pool.submit("bob", "one", "hi", message_id="m1")).turn_id
    await soon(lambda: "running" in bob.turn_states(running))
    assert (await pool.submit("bob", "two", "hi", message_id="m1")).turn_id
    await soon(lambda: pool._around.hosts.first.slots.queue_length == 1)
    await look_for(pool, 2 * HOLD)
    assert screen.turn_states(turn)[-1] == "running"


async def test_the_age_of_an_approval_goes_on_over_a_restart(world: World) -> None:
    pool = await world.start(max_instances=1, approval_hold_seconds=1.0)
    await asking(world, pool)
    await asyncio.sleep(1.0)
    await world.crash(pool)
    again = await world.start()
    await soon(lambda: session_of(again).approvals.has_open)
    bob = Screen()
    await again.subscribe("bob", "default", None, bob)
    other = (await again.submit("bob", "default", "hi", message_id="m1")).turn_id
    await soon(lambda: again._around.hosts.first.slots.queue_length == 1)
    await again._watches.holds.look()
    assert (await bob.ended(other))["state"] == "succeeded"
    assert session_of(again).state is SessionState.PARKED
