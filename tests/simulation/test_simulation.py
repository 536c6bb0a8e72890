"""Seeded simulations of the whole pool: time is virtual, and the order of what runs is the seed's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.simulation.loop import SimulatedLoop, Stalled
from tests.simulation.scenario import play

SAMPLE = (36, 56)
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "300"))


@pytest.mark.parametrize("seed", SAMPLE)
def test_a_seed_is_one_story(short_dir: Path, seed: int) -> None:
    story = play(seed, short_dir / "data")
    assert not story.failures, f"python -m tests.simulation --seeds 1 --seed {seed}: {story.failures[:5]}"
    assert story.counts["shuffled"] > 50
    assert story.counts["accepted"] > 10


def test_the_same_seed_is_the_same_story(short_dir: Path) -> None:
    first, second, other = (
        play(seed, short_dir / f"data{index}", deeds=4) for index, seed in enumerate((5, 5, 6))
    )
    assert first.trace == second.trace != other.trace
    assert first.trace


@pytest.mark.acceptance
def test_many_seeds(short_dir: Path) -> None:
    for seed in range(1, SEEDS + 1):
        story = play(seed, short_dir / f"data{seed}")
        assert not story.failures, f"python -m tests.simulation --seeds 1 --seed {seed}: {story.failures[:5]}"


def orders_of(seed: int) -> tuple[str, str, float]:
    """How three tasks, and three callbacks, that are ready together run; and the time it took."""
    loop = SimulatedLoop(seed)
    steps: list[str] = []
    calls: list[str] = []

    async def three() -> None:
        async def one(name: str) -> None:
            for _ in range(3):
                steps.append(name)
                await asyncio.sleep(0)

        for name in "abc":
            loop.call_soon(calls.append, name)
        await asyncio.gather(one("1"), one("2"), one("3"))
        await asyncio.sleep(3600)
        assert await asyncio.to_thread(lambda: 7) == 7

    loop.run_until_complete(three())
    seconds = loop.time()
    loop.close()
    return "".join(steps), "".join(calls), seconds


def test_tasks_change_places_and_callbacks_do_not() -> None:
    found = [orders_of(seed) for seed in range(20)]
    assert len({steps for steps, _, _ in found}) > 10
    for steps, calls, seconds in found:
        assert sorted(steps) == sorted("123" * 3)
        assert calls == "abc"
        # an hour has passed, and nobody waited for it
        assert 3600 <= seconds < 3601
    assert found == [orders_of(seed) for seed in range(20)]


def test_what_waits_for_ever_is_told() -> None:
    loop = SimulatedLoop(0)

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def around_and_around() -> None:
        while True:
            await asyncio.sleep(0)

    task = loop.create_task(for_ever())
    with pytest.raises(Stalled, match="no timer will wake anybody"):
        loop.run_until_complete(task)
    task.cancel()
    task = loop.create_task(around_and_around())
    with pytest.raises(Stalled, match="time does not pass"):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
