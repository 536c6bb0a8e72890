"""Old history goes while the server runs; users go on as if it had never been."""

from __future__ import annotations

import pytest

from pool import errors
from pool.config import PoolConfig
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import World, follow, say, session_of, soon

DAY = 86400.0


async def test_history_that_is_old_enough_goes_and_the_conversation_goes_on(world: World) -> None:
    pool = await world.start(retention_days=30)
    clock = FakeClock(wall=pool._around.clock.wall())
    pool._around.clock = clock
    screen = await follow(pool)
    first = await say(pool, "m1")
    await screen.ended(first)
    await pool.destroy_instance("alice")
    await pool._watches.retention.look()
    assert (await follow(pool, cursor="0")).of_type("turn")
    clock.advance(31 * DAY)
    second = await say(pool, "m2")
    await screen.ended(second)
    await pool._watches.retention.look()
    late = await follow(pool, cursor="0")
    await soon(lambda: late.of_type("turn"))
    assert {frame["turn_id"] for frame in late.of_type("turn")} <= {first, second}
    assert second in {frame["turn_id"] for frame in late.of_type("turn")}
    clock.advance(31 * DAY)
    await say(pool, "m3")
    await pool._watches.retention.look()
    assert await say(pool, "m1") != first, "the key was forgotten with its turn"
    assert session_of(pool).record.cli_session


async def test_idempotency_outlives_a_short_history(world: World) -> None:
    pool = await world.start(retention_days=1)
    clock = FakeClock(wall=pool._around.clock.wall())
    pool._around.clock = clock
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await screen.ended(turn)
    clock.advance(6 * DAY)
    await pool._watches.retention.look()
    assert await say(pool, "m1") == turn


def test_a_retention_of_nothing_is_refused(world: World) -> None:
    with pytest.raises(errors.BadRequest):
        PoolConfig(data_dir=world.directory, retention_days=0)
