"""The date is set back or forth by a day, the machine sleeps: nothing that runs is touched by it."""

from __future__ import annotations

import pytest

from pool import Quota, QuotaBook, errors
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon

DAY = 86400.0


@pytest.mark.parametrize("jump", [-DAY, DAY])
async def test_a_date_that_jumps_ends_and_parks_nobody(world: World, jump: float) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(
        idle_timeout_seconds=600, max_age_seconds=3600, turn_timeout_seconds=600, turn_stall_seconds=60
    )
    for name in ("first", "second"):
        await pool.get_or_create_instance("alice", name)
        clock.advance(1)
    world.host.prepare = manual
    screen = await follow(pool, "busy")
    turn = await say(pool, "m1", "busy")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli("busy").ask("r1")
    await soon(lambda: screen.of_type("permission_request"))
    clock.set_wall(clock.wall() + jump)
    await pool._watches.look_at_instances()
    assert {session_of(pool, name).idleness._life_left() for name in ("first", "second")} <= {3598.0, 3599.0}
    session_of(pool, "first").idleness.rest()
    assert all(cli.is_alive for cli in world.host.clis.values())
    first, second = (session_of(pool, name).idleness.since for name in ("first", "second"))
    assert first < second <= clock.monotonic()
    await pool.answer_permission("alice", "busy", "r1", "allow", answered_by="alice")
    world.host.cli("busy").finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    assert pool._around.hosts.first.slots.oldest_wait(clock.monotonic()) == 0


@pytest.mark.parametrize("jump", [-DAY, DAY])
async def test_limits_of_a_minute_are_neither_forgotten_nor_prolonged(world: World, jump: float) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(quotas=QuotaBook(default=Quota(turns_per_minute=1)))
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    clock.set_wall(clock.wall() + jump)
    with pytest.raises(errors.RateLimited) as refusal:
        await say(pool, "m2")
    assert 0 < (refusal.value.retry_after_seconds or 0) <= 61
    clock.advance(61)
    assert (await screen.ended(await say(pool, "m3")))["state"] == "succeeded"


@pytest.mark.parametrize("jump", [-DAY, DAY])
async def test_a_date_that_jumped_while_no_server_ran_makes_no_negative_age(
    world: World, jump: float
) -> None:
    clock = world.clock = FakeClock()
    pool = await world.start(idle_timeout_seconds=600, max_age_seconds=3600)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await world.crash(pool)
    clock.set_wall(clock.wall() + jump)
    again = await world.start()
    session = session_of(again)
    # After a jump forth it counts as old, and an old one rests: the conversation goes on in the next.
    assert session.idleness.since <= clock.monotonic()
    assert session.idleness._life_left() <= 3600
    later = await follow(again)
    assert (await later.ended(await say(again, "m2")))["state"] == "succeeded"
