"""How many turns a user may send in a minute, and how many may wait."""

from __future__ import annotations

import asyncio

import pytest

from pool import ClaudeInstancePool, Quota, QuotaBook, errors
from pool.model import UserId
from pool.runtime.turn_admission import TurnRates
from tests.pool.runtime.conftest import World, follow, manual, say, soon


def limits(**quota: int | None) -> QuotaBook:
    return QuotaBook(default=Quota(**quota))  # type: ignore[arg-type]


async def refused(pool: ClaudeInstancePool, message_id: str, session: str = "default") -> errors.Refused:
    with pytest.raises(errors.Refused) as caught:
        await say(pool, message_id, session)
    return caught.value


async def test_too_many_turns_in_a_minute_are_refused_with_a_time_to_come_back(world: World) -> None:
    pool = await world.start(quotas=limits(turns_per_minute=3))
    screen = await follow(pool)
    first = await say(pool, "m0")
    for number in (1, 2):
        await say(pool, f"m{number}", session=f"s{number}")
    error = await refused(pool, "m3")
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after_seconds is not None
    assert 50 < error.retry_after_seconds <= 60
    assert error.details == {"quota": "turns_per_minute", "limit": 3, "used": 3}
    assert await say(pool, "m0") == first, "the same message again is no turn"
    await screen.ended(first)
    assert (await pool.submit("bob", "default", "hi", message_id="m0")).turn_id, "bob has a minute of his own"


async def test_a_repeated_message_does_not_count(world: World) -> None:
    pool = await world.start(quotas=limits(turns_per_minute=2))
    for _ in range(10):
        await say(pool, "m0")
    await say(pool, "m1")
    assert (await refused(pool, "m2")).code == "rate_limited"


async def test_a_refused_message_does_not_count_and_may_come_again(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=limits(turns_per_minute=10, max_queued_turns=1))
    screen = await follow(pool)
    running = await say(pool, "m0")
    await soon(lambda: "running" in screen.turn_states(running))
    waiting = await say(pool, "m1")
    for _ in range(20):
        assert (await refused(pool, "m2")).code == "quota_exceeded"
    world.host.cli().finish()
    await soon(lambda: "running" in screen.turn_states(waiting))
    assert await say(pool, "m2")


async def test_messages_at_once_do_not_pass_the_limit(world: World) -> None:
    pool = await world.start(quotas=limits(turns_per_minute=5))
    sessions = [f"s{number % 4}" for number in range(40)]
    results = await asyncio.gather(
        *(say(pool, f"m{number}", session) for number, session in enumerate(sessions)), return_exceptions=True
    )
    assert sum(isinstance(result, str) for result in results) == 5


async def test_waiting_turns_are_counted_over_all_sessions_of_a_user(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=limits(max_queued_turns=4, max_instances=2))
    screens = {session: await follow(pool, session) for session in ("a", "b")}
    for session, screen in screens.items():
        turn = await say(pool, "m0", session)
        await soon(lambda s=screen, t=turn: "running" in s.turn_states(t))  # type: ignore[misc]
        await say(pool, "m1", session)
        await say(pool, "m2", session)
    error = await refused(pool, "m3", "a")
    assert error.details == {"quota": "max_queued_turns", "limit": 4, "used": 4}
    assert (await pool.submit("bob", "default", "hi", message_id="m0")).turn_id
    await pool.interrupt("alice", "b")
    assert await say(pool, "m3", "a"), "what was withdrawn waits no more"


async def test_turns_that_an_earlier_server_left_are_counted(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=limits(max_queued_turns=2))
    screen = await follow(pool)
    turn = await say(pool, "m0")
    await soon(lambda: "running" in screen.turn_states(turn))
    await say(pool, "m1")
    await say(pool, "m2")
    await world.crash(pool)
    again = await world.start()
    assert (await refused(again, "m3", "other")).details["used"] == 2


def test_a_user_who_is_quiet_is_forgotten() -> None:
    rates = TurnRates()
    for number in range(1000):
        rates.take(UserId(f"u{number}"), float(number))
    assert len(rates) == 60
    assert rates.check(UserId("u999"), 1, 1000.0) is not None
    assert rates.check(UserId("u3"), 1, 1000.0) is None
