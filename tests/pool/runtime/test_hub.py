"""Fan-out: every viewer gets every frame, none holds up another."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from pool.errors import PoolError, StoreUnavailable
from pool.model import BEGINNING, Cursor
from pool.runtime.hub import Channel, Pace
from tests.pool.runtime.tape import Paper, Tape
from tests.pool.runtime.test_replay import LINES
from tests.waiting import eventually


async def filled(lines: int = 30, *, ring_bytes: int = 1, budget_bytes: int = 1 << 30) -> Tape:
    tape = Tape(ring_bytes=ring_bytes, budget_bytes=budget_bytes)
    await tape.begin()
    for number in range(lines):
        tape.output(LINES["delta" if number % 3 else "whole"])
    await tape.log.settled()
    return tape


async def caught_up(subscription: object) -> None:
    while subscription._task is not None:  # type: ignore[attr-defined]
        await asyncio.sleep(0)


async def test_a_viewer_over_its_budget_lags_and_then_misses_nothing() -> None:
    tape = await filled(3, budget_bytes=500)
    slow = Paper()
    subscription = tape.follow(slow, tape.channel.head)
    slow.backlog_bytes = 10_000
    for _ in range(20):
        tape.output(LINES["delta"])
    assert slow.frames == []
    assert subscription.pace.value == "lagging"
    slow.backlog_bytes = 0
    while slow.cursors[-1:] != [tape.channel.head]:
        subscription.drained()
        await asyncio.sleep(0)
    tape.output(LINES["whole"])
    assert [frame["type"] for frame in slow.frames] == ["event"] * 21
    assert slow.cursors == sorted(set(slow.cursors))


async def test_catching_up_while_more_is_printed_leaves_no_hole_and_no_repeat() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        tape = await filled(20, ring_bytes=chance.choice([1, 2_000, 10_000]), budget_bytes=600)
        late = Paper()
        subscription = tape.follow(late, BEGINNING)
        for _ in range(60):
            if chance.random() < 0.5:
                tape.output(LINES["delta"])
            if chance.random() < 0.2:
                tape.own()
            late.backlog_bytes = chance.choice([0, 0, 700])
            if not late.backlog_bytes:
                subscription.drained()
            await asyncio.sleep(0)
        await tape.log.settled()
        late.backlog_bytes = 0
        while late.cursors[-1:] != [tape.channel.head]:
            subscription.drained()
            await asyncio.sleep(0)
        assert late.frames == tape.live.frames
        await tape.log.aclose()


async def test_a_viewer_closed_while_it_catches_up_gets_nothing_more() -> None:
    tape = await filled()
    late = Paper()
    subscription = tape.follow(late, BEGINNING)
    await asyncio.sleep(0)
    subscription.close()
    count = len(late.frames)
    for _ in range(20):
        tape.output(LINES["whole"])
        await asyncio.sleep(0)
    assert len(late.frames) == count
    assert subscription not in tape.channel.subscriptions


class Closing(Paper):
    """Closes a subscription when it is given frames."""

    def __init__(self) -> None:
        super().__init__()
        self.victim: list[object] = []

    def deliver(self, frames: Sequence[bytes]) -> None:
        super().deliver(frames)
        for subscription in self.victim:
            subscription.close()  # type: ignore[attr-defined]


async def test_a_viewer_closed_by_anothers_delivery_gets_nothing_more() -> None:
    tape = await filled(1)
    papers = [Closing() for _ in range(4)]
    subscriptions = [tape.follow(paper, tape.channel.head) for paper in papers]
    for paper in papers:
        paper.victim = [item for item in subscriptions if item._viewer is not paper]
    tape.output(LINES["whole"])
    tape.output(LINES["whole"])
    assert sorted(len(paper.frames) for paper in papers) == [0, 0, 0, 2]


@pytest.mark.parametrize("budget", [1, 1 << 30])
@pytest.mark.parametrize("from_beginning", [True, False])
async def test_a_viewer_that_closes_itself_stays_closed(budget: int, from_beginning: bool) -> None:
    tape = await filled(4, budget_bytes=1 << 30)
    tape.channel.budget_bytes = budget
    paper = Closing()
    subscription = tape.follow(paper, BEGINNING if from_beginning else tape.channel.head)
    paper.victim = [subscription]
    tape.output(LINES["whole"] + LINES["whole"])
    await caught_up(subscription)
    count = len(paper.frames)
    assert subscription.pace is Pace.CLOSED
    subscription.drained()
    tape.output(LINES["whole"])
    await asyncio.sleep(0)
    assert len(paper.frames) == count


async def test_a_store_that_is_away_for_a_while_costs_a_viewer_time_and_no_event() -> None:
    tape = await filled()
    read, calls = tape.replay._store.read_events, 0

    async def away_at_first(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise StoreUnavailable("the database is locked")
        return await read(*args, **more)

    tape.replay._store.read_events = away_at_first  # type: ignore[method-assign]
    late = Paper()
    subscription = tape.follow(late, BEGINNING)
    tape.output(LINES["delta"])
    await eventually(lambda: subscription.pace is Pace.LIVE)
    assert calls > 2
    assert late.frames == tape.live.frames


async def test_a_log_that_cannot_be_read_costs_a_gap_and_not_the_viewer() -> None:
    tape = await filled()

    async def broken(*_: object, **__: object) -> object:
        raise PoolError("the row makes no sense")

    tape.replay._store.read_events = broken  # type: ignore[method-assign, assignment]
    late = Paper()
    subscription = tape.follow(late, BEGINNING)
    await caught_up(subscription)
    assert late.frames[0]["type"] == "gap"
    tape.output(LINES["delta"])
    assert late.frames[-1] == tape.live.frames[-1]
    assert subscription.pace is Pace.LIVE


class Broken(Paper):
    """Cannot take anything."""

    def deliver(self, frames: Sequence[bytes]) -> None:
        raise RuntimeError("the socket is gone")


@pytest.mark.parametrize("from_beginning", [True, False])
async def test_a_viewer_that_fails_is_dropped_and_costs_the_others_nothing(from_beginning: bool) -> None:
    tape = await filled(3)
    subscription = tape.follow(Broken(), BEGINNING if from_beginning else tape.channel.head)
    tape.output(LINES["whole"])
    tape.own()
    await caught_up(subscription)
    await tape.log.settled()
    assert subscription.pace is Pace.CLOSED
    assert tape.live.frames[-1]["type"] == "turn"


@pytest.mark.parametrize("frame_bytes", [1, 80, 5_000])
def test_the_newest_frames_take_as_much_memory_as_they_may(frame_bytes: int) -> None:
    channel = Channel(head=BEGINNING, budget_bytes=1000, ring_bytes=1 << 20)
    tracemalloc.start()
    try:
        before, _peak = tracemalloc.get_traced_memory()
        for number in range(20_000):
            # of its own, as each one that was read is
            channel.publish([(Cursor(1_000 + number, 2_000 + number, 0), bytes(frame_bytes))])
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert (1 << 20) * 0.7 < taken < (1 << 20) * 1.3


def test_frames_in_memory_are_no_work_for_the_garbage_collector() -> None:
    channel = Channel(head=BEGINNING, budget_bytes=1000)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(2_000):
        channel.publish([(Cursor(1, number, 0), bytes(100))])
    gc.collect()
    assert len(channel.since(BEGINNING) or ()) == 2_000
    assert len(gc.get_objects()) - before < 100
