"""Memory, processes and processor time of real process trees, judged by ``/proc``."""

from __future__ import annotations

from typing import Any

import pytest

from pool import ClaudeInstancePool, Quota, QuotaBook, errors
from pool.model import UserId
from tests.fakes.fake_clock import FakeClock
from tests.pool.conftest import MakePool, Screen
from tests.waiting import eventually

MIB = 1 << 20


def limits(**quota: Any) -> QuotaBook:
    return QuotaBook(default=Quota(turns_per_minute=None, **quota), users={"bob": {"memory_bytes": None}})


async def follow(pool: ClaudeInstancePool, user: str = "alice") -> Screen:
    screen = Screen()
    await pool.subscribe(user, "default", None, screen)
    return screen


async def run(pool: ClaudeInstancePool, text: str, message_id: str, user: str = "alice") -> str:
    return (await pool.submit(user, "default", text, message_id=message_id)).turn_id


async def test_out_of_memory_is_what_the_user_reads(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(memory_bytes=150 * MIB))
    alice, bob = await follow(pool), await follow(pool, "bob")
    other = await run(pool, "go !sleep 6", "m1", "bob")
    turn = await run(pool, f"go !memory {250 * MIB} !sleep 600", "m1")
    waiting = await run(pool, "hello", "m2")
    ending = await alice.ended(turn, 20)
    assert ending["state"] == "lost"
    assert ending["reason"]["code"] == "out_of_memory"
    assert "may take 150.0 MiB" in ending["reason"]["message"]
    assert (await alice.ended(waiting, 20))["state"] == "succeeded", "the session goes on"
    assert (await bob.ended(other, 20))["state"] == "succeeded", "and nobody else notices"
    assert pool.counters.limit_ends.value("out_of_memory") == 1


@pytest.mark.acceptance
async def test_a_tool_that_leaves_its_parent_is_counted_too(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(max_processes=3))
    screen = await follow(pool)
    (instance,) = [await pool.get_or_create_instance("alice")]
    turn = await run(pool, "go !child !setsid !double-fork !sleep 600", "m1")
    ending = await screen.ended(turn, 20)
    assert ending["state"] == "interrupted"
    assert ending["reason"]["code"] == "too_many_processes"
    assert "may run 3" in ending["reason"]["message"]

    async def gone() -> bool:
        return not any(info.id == instance.id for info in pool.instances())

    await eventually(gone, 20, what="processes that stay end their instance")
    assert (await screen.ended(await run(pool, "hello", "m2"), 20))["state"] == "succeeded"


async def test_processor_time_of_an_hour_runs_out(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(cpu_seconds_per_hour=1.5))
    screen = await follow(pool)
    ending = await screen.ended(await run(pool, "go !spin 600", "m1"), 30)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "quota_exceeded")
    with pytest.raises(errors.QuotaExceeded) as caught:
        await run(pool, "hello", "m2")
    assert caught.value.details["quota"] == "cpu_seconds_per_hour"
    assert (await pool.submit("carol", "default", "hi", message_id="m1")).turn_id


async def test_within_its_limits_nobody_is_disturbed(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(memory_bytes=4 << 30, max_processes=20, cpu_seconds_per_hour=3600))
    screen = await follow(pool)
    turn = await run(pool, "go !child !sleep 1", "m1")
    await pool._watches.consumption.look()
    (tree,) = await eventually(lambda: list(pool._watches.consumption.trees.values()))
    assert tree.rss_bytes > 5 * MIB
    assert (await screen.ended(turn))["state"] == "succeeded"


async def test_output_of_a_day_runs_out(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(output_bytes_per_day=400_000))
    screen, bob = await follow(pool), await follow(pool, "bob")
    turn = await run(pool, "stream 100000 1", "m1")
    ending = await screen.ended(turn, 60)
    assert (ending["state"], ending["reason"]["code"]) == ("interrupted", "quota_exceeded")
    assert "output_bytes_per_day" in ending["reason"]["message"]
    with pytest.raises(errors.QuotaExceeded) as caught:
        await run(pool, "hello", "m2")
    assert caught.value.details["quota"] == "output_bytes_per_day"
    assert (await bob.ended(await run(pool, "hello", "m1", "bob"), 20))["state"] == "succeeded"


async def test_nothing_is_kept_of_a_user_of_whom_nothing_counts_any_more(make_pool: MakePool) -> None:
    pool = await make_pool(quotas=limits(output_bytes_per_day=400_000))
    clock = pool._around.clock = FakeClock(wall=pool._around.clock.wall())
    consumption = pool._watches.consumption
    screen, alice = await follow(pool), UserId("alice")
    await screen.ended(await run(pool, "hello", "m1"))
    await consumption.look()
    assert consumption.output_bytes(alice) > 0
    await pool.destroy_instance("alice")
    clock.advance(82_000)
    await consumption.look()
    assert consumption.output_bytes(alice) > 0
    clock.advance(10_000)
    assert consumption.output_bytes(alice) == 0
    await consumption.look()
    assert not consumption._days
    assert not consumption._hours
