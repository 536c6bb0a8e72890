"""The database is locked for longer than anybody waits: who asks is told so, and nothing runs twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from pool import Accepted, errors
from pool.runtime import log, supervisor
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Another process holds the database."""
    with closing(sqlite3.connect(world.directory / "claude-pool.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


async def test_a_message_is_refused_in_time_and_sent_again_it_runs_once(world: World) -> None:
    pool = await world.start(store_timeout_seconds=0.2)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m0"))
    told: list[Accepted] = []
    with locked(world):
        for _ in range(2):
            with pytest.raises(errors.StoreTimeout) as refused:
                await pool.submit("alice", "default", "words m1", message_id="m1", on_accepted=told.append)
            assert (refused.value.code, refused.value.details) == ("store_unavailable", {"message_id": "m1"})
            assert refused.value.retry_after_seconds
        assert not told
        assert len(world.host.cli().runs) == 1, "what is not stored does not run"
    again = await pool.submit("alice", "default", "words m1", message_id="m1")
    assert again.repeated
    assert (await screen.ended(again.turn_id))["state"] == "succeeded"
    assert [one.turn_id for one in told] == [again.turn_id], "whoever was refused hears of it all the same"
    assert world.host.cli().runs[1:] == [again.turn_id]
    assert pool.counters.rejected.value("store_unavailable") == 2


async def test_a_message_that_was_not_stored_when_the_server_died_is_the_first_one(world: World) -> None:
    pool = await world.start(store_timeout_seconds=0.2)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m0"))
    with locked(world):
        with pytest.raises(errors.StoreTimeout):
            await say(pool, "m1")
        crash = asyncio.create_task(world.crash(pool), name="crash")
        await asyncio.sleep(0)
        # The writer of the dead server would try for seconds; a kill takes it with it.
        pool._around.store.database._writer._closing.set()  # type: ignore[attr-defined]
        await crash
    again = await world.start()
    later = await follow(again)
    accepted = await again.submit("alice", "default", "words m1", message_id="m1")
    assert not accepted.repeated
    assert (await later.ended(accepted.turn_id))["state"] == "succeeded"
    assert world.host.cli().runs[1:] == [accepted.turn_id]


async def test_messages_that_wait_behind_one_that_is_refused_are_refused_too(world: World) -> None:
    pool = await world.start(store_timeout_seconds=0.3)
    screen = await follow(pool)
    await screen.ended(await say(pool, "m0"))
    names = [f"m{n}" for n in range(1, 6)]
    with locked(world):
        results = await asyncio.gather(*(say(pool, name) for name in names), return_exceptions=True)
        assert {type(result) for result in results} == {errors.StoreTimeout}
    turns = [await say(pool, name) for name in names]
    for turn in turns:
        assert (await screen.ended(turn))["state"] == "succeeded"
    assert world.host.cli().runs[1:] == sorted(turns, key=world.host.cli().runs.index)
    assert len(world.host.cli().runs) == 1 + len(names)


async def test_a_new_session_and_a_change_are_refused_in_time_too(world: World) -> None:
    pool = await world.start(store_timeout_seconds=0.2)
    await (await follow(pool)).ended(await say(pool, "m0"))
    with locked(world):
        for work in (
            say(pool, "m1", "other"),
            pool.create_session("alice", "third"),
            pool.update_session("alice", "default", title="new"),
            pool.archive_session("alice", "default"),
        ):
            with pytest.raises(errors.StoreTimeout):
                await work
    screen = await follow(pool, "other")
    assert (await screen.ended(await say(pool, "m1", "other")))["state"] == "succeeded"


async def test_an_answer_to_an_approval_reaches_the_cli_though_nobody_waits_any_more(world: World) -> None:
    world.host.prepare = manual
    pool = await world.start(store_timeout_seconds=0.2, stop_grace_seconds=10)
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    world.host.cli().ask("r1")
    await soon(lambda: screen.of_type("permission_request"))
    await session_of(pool).log.settled()
    with locked(world):
        with pytest.raises(errors.StoreTimeout):
            await pool.answer_permission("alice", "default", "r1", "allow", answered_by="alice")
        assert "r1" not in world.host.cli().answers, "an answer is stored before it is written"
        with pytest.raises(errors.StoreTimeout):
            await pool.interrupt("alice", "default")
    await soon(lambda: "r1" in world.host.cli().answers)
    assert (await screen.ended(turn))["state"] == "interrupted"


async def test_a_server_ends_though_the_database_takes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((supervisor, "_STORE_SECONDS"), (log, "_LAST_SECONDS")):
        monkeypatch.setattr(module, name, 0.2)
    world.host.prepare = manual
    pool = await world.start()
    screen = await follow(pool)
    turn = await say(pool, "m1")
    await soon(lambda: "running" in screen.turn_states(turn))
    await session_of(pool).log.settled()
    writer = pool._around.store.database._writer  # type: ignore[attr-defined]
    with locked(world):
        ending = asyncio.create_task(pool.shutdown(drain_timeout_seconds=0.1), name="ending")
        await soon(writer._closing.is_set, what="nothing waits for the database any more")
        assert not world.host.living
    await ending
    again = await world.start()
    later = await follow(again, cursor="0")
    assert (await later.ended(turn))["state"] == "interrupted"
    assert later.turn_states(turn).count("interrupted") == 1
