"""While the database is stuck, memory is bounded, the CLI waits, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool import ClaudeInstancePool, errors
from pool.runtime.backlog import Account, Backlog
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon

SESSION, TOTAL = 1600, 4000


class Owner:
    def __init__(self) -> None:
        self.told: list[bool] = []

    def hold(self, is_held: bool) -> None:
        self.told.append(is_held)


def test_who_has_too_much_waiting_is_held_until_half_of_it_is_stored() -> None:
    backlog, owner = Backlog(SESSION, TOTAL), Owner()
    account = Account(backlog, owner)
    account.add(SESSION)
    assert owner.told == []
    account.add(1)
    account.add(500)
    assert owner.told == [True]
    account.add(-1000)
    assert owner.told == [True]
    account.add(-301)
    assert owner.told == [True, False]


def test_when_all_together_have_too_much_the_small_ones_go_on() -> None:
    backlog = Backlog(SESSION, TOTAL)
    owners = [Owner() for _ in range(7)]
    accounts = [Account(backlog, owner) for owner in owners]
    for account in accounts[:6]:
        account.add(700)
    assert backlog.is_full
    accounts[6].add(50)
    assert [owner.told for owner in owners] == [[], [], [], [], [], [True], []], "only who adds to it is held"
    for account in accounts[:5]:
        account.add(10)
    assert backlog.held == 6
    for account in accounts[:5]:
        account.add(-account.bytes)
    assert backlog.held == 0
    assert owners[5].told == [True, False], "the others' commits let it go on"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 700), st.booleans()), max_size=80))
def test_nobody_is_held_for_ever_and_the_total_is_the_sum(steps: list[tuple[int, int, bool]]) -> None:
    backlog = Backlog(SESSION, TOTAL)
    owners = [Owner() for _ in range(5)]
    accounts = [Account(backlog, owner) for owner in owners]
    for index, count, is_commit in steps:
        account = accounts[index]
        if is_commit:
            account.add(-min(count, account.bytes))
        elif not account.is_held:
            account.add(count)
        assert backlog.total == sum(one.bytes for one in accounts)
        assert all(one.bytes <= SESSION + 700 for one in accounts)
        assert backlog.total <= TOTAL + 5 * 700 + 5 * SESSION // 16
    for account in accounts:
        account.add(-account.bytes)
    assert backlog.held == 0
    for owner in owners:
        assert owner.told == [True, False] * (len(owner.told) // 2), "held and let go in turn"


@contextmanager
def stuck(pool: ClaudeInstancePool) -> Iterator[None]:
    """The database takes nothing."""
    store: Any = pool._around.store
    real = store.commit

    async def refuse(_operations: object) -> None:
        raise errors.StoreUnavailable("the database is locked")

    store.commit = refuse
    try:
        yield
    finally:
        store.commit = real


async def test_a_stuck_database_holds_the_cli_and_loses_nothing(world: World) -> None:
    world.host.prepare = manual
    bound = 100_000
    pool = await world.start(
        backlog_session_bytes=bound, backlog_total_bytes=4 * bound, viewer_budget_bytes=1 << 24
    )
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli, session = world.host.cli(), session_of(pool)
    await session.log.settled()
    with stuck(pool):
        for n in range(2000):
            cli.emit(
                {"type": "assistant", "message": {"content": [{"type": "text", "text": f"{n} {'x' * 500}"}]}}
            )
            if n % 20 == 0:
                await asyncio.sleep(0)
        await soon(lambda: cli.is_held, "the keeper gets no more credit")
        assert session.log._account.bytes < bound + 20 * 700
        sent = cli._sent
        await asyncio.sleep(0.05)
        assert cli._sent == sent < len(cli.spool), "the rest waits in the spool"
    cli.finish()
    assert (await screen.ended(turn))["state"] == "succeeded"
    await session.log.settled()
    texts = [
        f["event"]["message"]["content"][0]["text"]
        for f in screen.of_type("event")
        if f["event"]["type"] == "assistant"
    ]
    assert [int(text.split()[0]) for text in texts[:2000]] == list(range(2000))
    assert not cli.is_held
    assert pool._around.backlog.total == 0
    assert pool._around.backlog.held == 0


async def test_frames_behind_an_unstored_event_count_too(world: World) -> None:
    """Token deltas are not stored, but they wait in memory while an event before them does."""
    world.host.prepare = manual
    pool = await world.start(backlog_session_bytes=50_000)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    cli = world.host.cli()
    with stuck(pool):
        cli.ask("r1")
        for _ in range(300):
            cli.delta("y" * 500)
            await asyncio.sleep(0)
        await soon(lambda: cli.is_held)
        assert not screen.of_type("permission_request")
    await soon(lambda: screen.text() == "y" * 500 * 300, "all came when the database did")
    assert pool._around.backlog.total == 0
    await pool.interrupt("alice", "default")
    await screen.ended(turn)


async def test_no_turn_is_begun_while_too_much_waits(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(backlog_session_bytes=20_000, backlog_total_bytes=10_000)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    with stuck(pool):
        for _ in range(30):
            world.host.cli().emit({"type": "assistant", "message": {"content": "z" * 500}})
        await soon(lambda: pool._around.backlog.is_full)
        with pytest.raises(errors.StoreUnavailable) as refused:
            await pool.submit("alice", "default", "hello", message_id="m2")
        assert refused.value.retry_after_seconds
    await soon(lambda: not pool._around.backlog.total)
    world.host.cli().finish()
    await screen.ended(turn)
