"""Old history goes while the server runs; users go on as if it had never been."""

from __future__ import annotations

import pytest

from pool import errors
from pool.config import PoolConfig
from pool.store.audit import verify
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


async def test_transcripts_of_nobodys_conversations_go_and_those_in_use_stay(world: World) -> None:
    pool = await world.start(retention_days=30)
    clock = FakeClock(wall=pool._around.clock.wall())
    pool._around.clock = clock
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    await pool.destroy_instance("alice")
    project = world.directory / "homes/alice/.claude/projects/-workspace"
    project.mkdir(parents=True, exist_ok=True)
    kept = project / f"{session_of(pool).record.cli_session}.jsonl"
    gone = project / "22222222-2222-4222-8222-222222222222.jsonl"
    former = world.directory / "homes/former/.claude/debug/log.txt"
    former.parent.mkdir(parents=True)
    (world.directory / "homes/no user").mkdir()
    for file in (kept, gone, former):
        file.write_text("x")
    clock.advance(20 * DAY)
    await pool._watches.retention.look()
    assert gone.exists()
    clock.advance(31 * DAY)
    await pool._watches.retention.look()
    assert (kept.exists(), gone.exists(), former.exists()) == (True, False, False)
    await pool.archive_session("alice", "default")
    clock.advance(31 * DAY)
    await pool._watches.retention.look()
    assert not kept.exists()


async def test_old_audit_records_go_and_the_rest_is_whole(world: World) -> None:
    pool = await world.start(audit_retention_days=100)
    clock = FakeClock(wall=pool._around.clock.wall())
    pool._around.clock = clock
    await say(pool, "m1")
    clock.advance(101 * DAY)
    await pool._watches.retention.look()
    assert [record.action for record in await pool.audit.page(action="prompt")] == []
    verdict = await verify(world.directory, None)
    assert verdict.problems == ()
    assert verdict.first > 1


async def test_sizes_are_told_by_part(world: World) -> None:
    pool = await world.start()
    (world.directory / "workspaces/alice").mkdir(parents=True)
    (world.directory / "workspaces/alice/large").write_bytes(b"x" * (3 << 20))
    await pool._watches.data_sizes.look()
    detail = pool._watches.data_sizes.check()["detail"]
    assert "workspaces 3 MiB" in detail
    assert "database " in detail


def test_a_retention_of_nothing_is_refused(world: World) -> None:
    with pytest.raises(errors.BadRequest):
        PoolConfig(data_dir=world.directory, retention_days=0)
