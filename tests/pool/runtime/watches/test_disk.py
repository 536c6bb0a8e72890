"""No turn is admitted on a disk that is almost full."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool import errors
from pool.runtime.watches.disk import DiskReserve
from tests.pool.runtime.conftest import World, follow, say

MORE_THAN_ANY_DISK = 2**62


async def test_below_the_reserve_no_turn_is_admitted_and_everybody_is_told_why(world: World) -> None:
    pool = await world.start(disk_reserve_bytes=MORE_THAN_ANY_DISK)
    with pytest.raises(errors.PoolFull) as caught:
        await say(pool, "m1")
    assert caught.value.retry_after_seconds == 60
    assert "disk is almost full" in caught.value.message
    with pytest.raises(errors.PoolFull):
        await pool.get_or_create_instance("alice")
    assert not world.host.clis
    assert not pool._around.hosts.first.slots.holders
    assert "disk is almost full" in pool.unready_reasons()[0]
    assert not pool.health()["checks"]["disk"]["ok"]
    assert pool.health()["status"] == "degraded"


async def test_what_runs_goes_on_and_room_lets_turns_in_again(world: World) -> None:
    pool = await world.start()
    screen = await follow(pool)
    first = await say(pool, "m1")
    await screen.ended(first)
    disk = pool._watches.disk
    disk.reserve_bytes = MORE_THAN_ANY_DISK
    with pytest.raises(errors.PoolFull):
        await say(pool, "m2")
    assert await say(pool, "m1") == first, "the first answer needs no room"
    assert (await pool.get_or_create_instance("alice")).id, "who has an instance keeps it"
    disk.reserve_bytes = 1
    assert pool.unready_reasons() == []
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"
    assert pool.health()["checks"]["disk"]["ok"]
    assert "MiB free" in pool.health()["checks"]["disk"]["detail"]


async def test_a_reserve_of_zero_is_none(tmp_path: Path) -> None:
    disk = DiskReserve(tmp_path, 0)
    assert disk.check()["ok"]
    await disk.look()
    assert disk.refusal() is None


async def test_a_disk_that_cannot_be_asked_refuses_nothing_but_is_told(tmp_path: Path) -> None:
    disk = DiskReserve(tmp_path / "nowhere", 1)
    await disk.look()
    assert disk.refusal() is None
    assert not disk.check()["ok"]
