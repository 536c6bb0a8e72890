"""A watch goes on after a failure and ends when it is told to."""

from __future__ import annotations

import asyncio

from pool.runtime.surroundings import Tasks
from pool.runtime.watches.rounds import Rounds
from tests.waiting import eventually


async def test_a_look_that_fails_is_made_again() -> None:
    looks: list[int] = []

    async def look() -> None:
        looks.append(len(looks))
        if len(looks) < 3:
            raise ValueError("not today")

    tasks = Tasks()
    rounds = Rounds(tasks)
    rounds.start("test", look, 0.01)
    await eventually(lambda: len(looks) > 4)
    await rounds.aclose()
    seen = len(looks)
    await asyncio.sleep(0.05)
    assert len(looks) == seen
    assert not tasks._tasks


async def test_a_look_under_way_is_given_up() -> None:
    begun = asyncio.Event()

    async def look() -> None:
        begun.set()
        await asyncio.Event().wait()

    rounds = Rounds(Tasks())
    rounds.start("test", look, 0.01)
    await begun.wait()
    async with asyncio.timeout(30):
        await rounds.aclose()
