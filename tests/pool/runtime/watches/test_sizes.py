"""A workspace above its quota takes no turn until it is below again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pool import Quota, QuotaBook, errors
from pool.model import UserId
from pool.runtime.watches.sizes import WorkspaceSizes
from pool.workspace.trees import Usage
from tests.fakes.fake_clock import FakeClock
from tests.pool.runtime.conftest import World, follow, say
from tests.waiting import eventually

ALICE, BOB = UserId("alice"), UserId("bob")
LIMIT = 3_000_000


async def test_over_the_quota_the_next_turn_is_refused_until_it_is_below(world: World) -> None:
    quotas = QuotaBook(default=Quota(workspace_bytes=LIMIT, turns_per_minute=None))
    pool = await world.start(quotas=quotas)
    sizes = pool._watches.sizes
    screen = await follow(pool)
    await screen.ended(await say(pool, "m1"))
    big = world.directory / "workspaces/alice/projects/big.bin"
    big.write_bytes(b"x" * LIMIT)
    sizes._measured_at.clear()
    await sizes.look()
    with pytest.raises(errors.QuotaExceeded) as caught:
        await say(pool, "m2")
    assert caught.value.details["quota"] == "workspace_bytes"
    assert caught.value.details["limit"] == LIMIT
    assert caught.value.details["used"] > LIMIT
    assert "of 2.9 MiB" in caught.value.message
    assert (await pool.submit("bob", "default", "hi", message_id="m1")).turn_id, "bob has room"
    await pool.destroy_instance("alice")
    big.unlink()
    sizes._measured_at.clear()
    await sizes.look()
    assert (await screen.ended(await say(pool, "m2")))["state"] == "succeeded"


class Files:
    """Sizes by user, and how often somebody counted them."""

    def __init__(self) -> None:
        self.sizes = {ALICE: 10, BOB: 10}
        self.counted: list[UserId] = []
        self.live = {ALICE, BOB}
        self.clock = FakeClock()
        quotas = QuotaBook(default=Quota(workspace_bytes=100))
        self.watch = WorkspaceSizes(self.measure, lambda: self.live, quotas, self.clock)

    def measure(self, user_id: UserId) -> Iterator[Usage]:
        self.counted.append(user_id)
        for part in (1, 2):
            yield Usage(self.sizes[user_id] * part // 2, part, complete=part == 2)


async def test_everybody_is_measured_once_a_minute_and_who_is_gone_no_more() -> None:
    files = Files()
    for _ in range(3):
        await files.watch.look()
    assert sorted(files.counted) == [ALICE, BOB]
    files.clock.advance(61)
    files.live = {BOB}
    await files.watch.look()
    assert files.counted[2:] == [BOB]
    assert files.watch.size_of(ALICE) == 0
    assert files.watch.size_of(BOB) == 10


async def test_who_is_over_is_measured_without_an_instance_and_soon_when_refused() -> None:
    files = Files()
    files.sizes[ALICE] = 500
    await files.watch.look()
    files.live = set()
    files.sizes[ALICE] = 50
    files.clock.advance(6)
    await files.watch.look()
    assert files.watch.size_of(ALICE) == 500
    files.watch.look_soon(ALICE)
    await files.watch.look()
    assert files.watch.size_of(ALICE) == 50
    await files.watch.look()
    assert files.watch.size_of(ALICE) == 0, "below the limit and not here: nothing is kept"


async def test_a_disk_that_does_not_answer_keeps_nobody_else_from_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pool.runtime.watches.sizes._SLICE_SECONDS", 0.05)
    files, answers = Files(), threading.Event()
    measure = files.watch._measure

    def hanging(user_id: UserId) -> Iterator[Usage]:
        if user_id == ALICE:
            files.counted.append(ALICE)
            answers.wait(20)
        yield from measure(user_id)

    files.watch._measure = hanging
    for _ in range(3):
        await files.watch.look()
        files.clock.advance(61)
    assert (files.watch.size_of(ALICE), files.watch.size_of(BOB)) == (0, 10)
    assert sorted(files.counted) == [ALICE, BOB, BOB, BOB], (
        "one thread waits for that disk, however often it is due"
    )
    answers.set()
    await eventually(lambda: not files.watch._hanging)
    await files.watch.look()
    assert files.watch.size_of(ALICE) == 10
