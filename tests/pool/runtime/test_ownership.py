"""Before a session's instance runs, the user's files are those of the Linux user that it runs as."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool import ClaudeInstancePool, errors
from tests.pool.runtime.conftest import World
from tests.waiting import eventually

FIRST, LAST = 200100, 200105
ALICE, BOB = FIRST + 1, FIRST + 2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def owners(top: Path) -> set[int]:
    """Who owns a directory and what is below it."""
    return {path.lstat().st_uid for path in (top, *top.rglob("*"))}


def of(world: World, user: str) -> list[Path]:
    return [world.directory / place / user for place in ("workspaces", "homes")]


async def run_as(pool: ClaudeInstancePool, world: World, user: str, session: str = "default") -> int | None:
    """Start a session of a user; as whom it was started."""
    instance = await pool.get_or_create_instance(user, session)
    (cli,) = [one for one in world.host.living if one.id == instance.id]
    assert cli.spec.workspace == world.directory / "workspaces" / user
    return cli.spec.uid


async def end_all(pool: ClaudeInstancePool, world: World) -> None:
    for cli in world.host.living:
        await pool.stop_instance(cli.id)
    await eventually(lambda: not world.host.living)


async def test_each_user_gets_a_uid_between_the_reserved_ones_and_keeps_it(world: World) -> None:
    world.host.uids = (FIRST, LAST)
    pool = await world.start()
    assert [await run_as(pool, world, name) for name in ("alice", "bob", "carol")] == [ALICE, BOB, BOB + 1]
    for name, uid in (("alice", ALICE), ("bob", BOB)):
        assert [owners(top) for top in of(world, name)] == [{uid}] * 2
    # the first uid is for trials, the last two are the server's and the gateway's: none is ever a user's
    with pytest.raises(errors.PoolError, match=r"widen isolation\.uid_range"):
        await run_as(pool, world, "dave")
    await end_all(pool, world)
    assert await run_as(pool, world, "bob") == BOB


async def test_files_of_an_earlier_version_are_given_away_at_the_next_start(world: World) -> None:
    pool = await world.start()
    assert await run_as(pool, world, "alice") is None
    workspace = of(world, "alice")[0]
    (workspace / "a" / "b").mkdir(parents=True)
    (workspace / "a" / "b" / "file").write_text("alice's")
    secret = world.directory / "secret"
    secret.write_text("root's")
    (workspace / "hard").hardlink_to(secret)
    (workspace / "soft").symlink_to(secret)
    await end_all(pool, world)
    world.host.uids = (FIRST, LAST)
    assert await run_as(pool, world, "alice") == ALICE
    assert (workspace / "a" / "b" / "file").stat().st_uid == (workspace / "a").stat().st_gid == ALICE
    # what is not the user's alone stays whose it was
    assert secret.stat().st_uid == (workspace / "hard").stat().st_uid == 0


async def test_while_something_of_the_user_lives_nothing_changes_hands(world: World) -> None:
    pool = await world.start()
    await run_as(pool, world, "alice")
    world.host.uids = (FIRST, LAST)
    # beside the one of before, as its files' owner
    assert await run_as(pool, world, "alice", "second") is None
    assert [owners(top) for top in of(world, "alice")] == [{0}] * 2
    # another user does not wait for that
    assert await run_as(pool, world, "bob") == BOB
    await end_all(pool, world)
    assert await run_as(pool, world, "alice") == ALICE
    assert [owners(top) for top in of(world, "alice")] == [{ALICE}] * 2


async def test_with_another_range_everybody_moves(world: World) -> None:
    world.host.uids = (FIRST, LAST)
    pool = await world.start()
    await run_as(pool, world, "alice")
    await end_all(pool, world)
    world.host.uids = (FIRST + 100, LAST + 100)
    assert await run_as(pool, world, "alice") == ALICE + 100
    assert [owners(top) for top in of(world, "alice")] == [{ALICE + 100}] * 2
