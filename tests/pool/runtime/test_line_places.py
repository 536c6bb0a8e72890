"""Places in line: right for everybody, and no dearer for each when there are many."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pool import Quota, QuotaBook
from pool.model import Place, SessionId, SessionKey, UserId
from pool.policy.line import FairLine, ServiceRate
from pool.runtime.line_places import LinePlaces, Waiter
from pool.runtime.slots import Slots


def key(user: str, session: str = "default") -> SessionKey:
    return SessionKey(UserId(user), SessionId(session))


class CountedQuotas(QuotaBook):
    """How often somebody's quota was asked for: once for each one in line that is looked at."""

    asked = 0

    def for_user(self, user_id: str) -> Quota:
        CountedQuotas.asked += 1
        return super().for_user(user_id)


async def cost_of_a_crowd(users: int, free: int) -> int:
    """How many quotas are looked up while ``users`` come in the same moment, and ask where they stand."""
    slots = Slots(CountedQuotas(default=Quota(max_instances=2)), free, users, 5)
    told: Counter[str] = Counter()
    CountedQuotas.asked = 0
    tasks = [
        asyncio.create_task(slots.acquire(key(f"u{n}"), may_wait=True, tell=lambda _place: told.update("x")))
        for n in range(users)
    ]
    for _ in range(users):
        await asyncio.sleep(0)
    for n in range(users):
        slots.check(key(f"u{n}", "another"), may_wait=True)
        slots.has_room(key(f"u{n}"))
    asked = CountedQuotas.asked
    assert (slots.queue_length, told.total()) == (users - free, users - free)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return asked


async def test_a_crowd_four_times_as_large_costs_four_times_as_much() -> None:
    few, many = [await cost_of_a_crowd(users, free=users // 3) for users in (50, 200)]
    assert few < many < 5 * few, "not by its square"


async def test_a_long_line_is_told_a_few_at_a_time_so_that_nobody_waits_for_the_word() -> None:
    slots, most = Slots(QuotaBook(), 1, 100, 5), 0
    told: list[Place] = []
    await slots.acquire(key("first"), may_wait=True)
    tasks = [
        asyncio.create_task(slots.acquire(key(f"u{n}"), may_wait=True, tell=told.append)) for n in range(60)
    ]
    before = 0

    async def until(count: int) -> None:
        nonlocal most, before
        while len(told) < count:
            await asyncio.sleep(0)
            most, before = max(most, len(told) - before), len(told)

    await until(60)
    slots.release(key("first"))
    await until(60 + 59)
    assert 1 < most < 30
    assert [place.position for place in told[60:]] == list(range(1, 60))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_left_before_the_word_went_out_is_told_nothing() -> None:
    slots = Slots(QuotaBook(), 0, 10, 5)
    told: dict[str, list[Place]] = {"a": [], "b": []}
    first, second = [
        asyncio.create_task(slots.acquire(key(name), may_wait=True, tell=told[name].append)) for name in told
    ]
    asyncio.get_running_loop().call_soon(first.cancel)
    await asyncio.gather(first, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert told["a"] == []
    assert len(told["b"]) == 1
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert slots.place(key("b")) is None


USERS = st.sampled_from(["ann", "bob", "cyd"])


@given(
    waiting=st.lists(USERS, max_size=12),
    holding=st.lists(USERS, max_size=6),
    limits=st.dictionaries(USERS, st.integers(0, 4)),
)
def test_places_are_those_of_the_line(waiting: list[str], holding: list[str], limits: dict[str, int]) -> None:
    async def story() -> None:
        line: FairLine[Waiter] = FairLine()
        holders = {key(user, f"held{n}") for n, user in enumerate(holding)}
        places = LinePlaces(line, holders, ServiceRate(), limits.get)
        loop = asyncio.get_running_loop()
        for n, user in enumerate(waiting):
            line.join(UserId(user), Waiter(key(user, f"s{n}"), True, loop.create_future(), 0.0, None))
        order = [waiter.key for waiter in line]
        live = Counter(holding)
        own = {user for user in set(waiting) if user in limits and live[user] >= limits[user]}
        pool_line = [waiter for waiter in order if waiter.user_id not in own]
        assert len(line) == len(waiting)
        assert set(line.users()) == set(waiting)
        for who in order:
            if who.user_id in own:
                theirs = [waiter for waiter in order if waiter.user_id == who.user_id]
                assert places.of(who) == Place(theirs.index(who) + 1, len(theirs), None, "own")
            else:
                assert places.of(who) == Place(pool_line.index(who) + 1, len(pool_line), None)
        assert places.of(key("ann", "elsewhere")) is None

    asyncio.run(story())
