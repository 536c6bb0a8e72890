"""Rows that cannot be read: their session faults and says so, everybody else goes on, and its owner too."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from pool import ClaudeInstancePool, Quota, QuotaBook
from pool.model import SessionState
from tests.pool.conftest import Screen
from tests.pool.runtime.conftest import World, follow, manual, say, session_of, soon


def spoil(world: World, session: str, table: str, column: str, value: str) -> None:
    """Put ``value``, an expression of SQL, into the rows of a session."""
    named = f"session_id = '{session}'"
    if table != "sessions":
        named = f"session = (SELECT id FROM sessions WHERE {named})"
    with closing(sqlite3.connect(world.directory / "claude-pool.db")) as database, database:
        database.execute(f"UPDATE {table} SET {column} = {value} WHERE {named}")


def counted(pool: ClaudeInstancePool, table: str) -> int:
    return pool._around.counters.spoilt_rows.value(table)


async def states(pool: ClaudeInstancePool) -> dict[str, str]:
    return {info.session_id: info.state.value for info in await pool.list_sessions("alice")}


# One session for each: an enum, a JSON, a number of which the session must not run out, an id.
SPOILT = (
    ("sessions", "state", "'hibernating'"),
    ("sessions", "permission_mode", "'bypassPermissions'"),
    ("sessions", "remembered", "'{\"rules\": 5}'"),
    ("sessions", "position_offset", "'far'"),
    ("sessions", "next_ordinal", "'many'"),
    ("instances", "state", "'hibernating'"),
    ("turns", "state", "'thinking'"),
    ("turns", "origin", "x'00'"),
    ("turns", "reason", "'{'"),
    ("permissions", "state", "'maybe'"),
    ("permissions", "request", "'{'"),
    ("permissions", "request_id", "x'00'"),
)
BAD = {f"{table}.{column}": (table, column, value) for table, column, value in SPOILT}


async def test_a_row_that_cannot_be_read_faults_its_session_and_nobody_elses(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.host.prepare = manual
    pool = await world.start(quotas=QuotaBook(default=Quota(turns_per_minute=None, max_instances=50)))
    turns, cursor = {}, ""
    for name in (*BAD, "good"):
        screen = await follow(pool, name)
        turns[name] = await say(pool, "m1", name)
        await soon(lambda: "running" in screen.turn_states(turns[name]))  # noqa: B023
        world.host.cli(name).ask("r1")
        await soon(lambda: len(session_of(pool, name).approvals) == 1)  # noqa: B023
        await session_of(pool, name).log.settled()
        cursor = screen.frames[-1]["cursor"]
    processes = {name: world.host.cli(name) for name in BAD}
    await world.crash(pool)
    for name, (table, column, value) in BAD.items():
        spoil(world, name, table, column, value)
    world.host.prepare = lambda _cli: None
    again = await world.start()
    # Everybody sees their sessions, and the others go on.
    assert await states(again) == dict.fromkeys(BAD, "faulted") | {"good": "live"}
    later = await follow(again, "good", cursor)
    world.host.cli("good").finish()
    assert (await later.ended(turns["good"]))["state"] == "succeeded"
    # Operators are told which rows these are, and not what stands there.
    rows = [r for r in caplog.records if r.message == "a row of the database cannot be read"]
    told: list[dict[str, Any]] = [vars(record) for record in rows]
    assert {(one["session"], one["table"]) for one in told} == {(n, v[0]) for n, v in BAD.items()}
    assert all(word not in str(told) for word in ("hibernating", "bypass", "thinking", "maybe", "many"))
    for table in ("sessions", "instances", "turns", "permissions"):
        assert counted(again, table) == sum(spoilt[0] == table for spoilt in SPOILT)
    for name, (table, _column, _value) in BAD.items():
        await is_faulted_and_begins_anew(again, name, table, turns[name])
        await soon(lambda: not processes[name].is_alive)  # noqa: B023
    # What was mended is whole, also for the next server.
    await world.crash(again)
    third = await world.start()
    assert counted(third, "sessions") == 0
    for name in BAD:
        screen = await follow(third, name)
        assert (await screen.ended(await say(third, "m3", name)))["state"] == "succeeded"


async def is_faulted_and_begins_anew(pool: ClaudeInstancePool, name: str, table: str, turn: str) -> None:
    """The turn ends once, with the reason, and nobody is asked any more; the next message is answered."""
    screen = await follow(pool, name, "0")
    ending = await screen.ended(turn)
    assert (ending["state"], ending["reason"]["code"]) == ("lost", "not_restored")
    faulted = [frame for frame in screen.of_type("session") if frame["state"] == "faulted"]
    assert [frame["reason"]["code"] for frame in faulted] == ["not_restored"]
    assert table in faulted[0]["reason"]["message"]
    assert await pool.permissions("alice", name) == []
    await soon(lambda: session_of(pool, name).instance is None)
    seen = places(screen)
    assert (await screen.ended(await say(pool, "m2", name)))["state"] == "succeeded"
    # Its cursors are above all that was seen before.
    assert min(places(screen)[len(seen) :]) > max(seen)
    await session_of(pool, name).log.settled()


def places(screen: Screen) -> list[tuple[int, ...]]:
    cursors = [frame["cursor"] for frame in screen.frames if "cursor" in frame]
    return [tuple(map(int, cursor.split("."))) for cursor in cursors]


async def test_a_session_at_rest_whose_row_is_spoilt_is_shown_and_can_be_used_or_put_away(
    world: World,
) -> None:
    columns = ("state", "permission_mode", "remembered", "position_k", "title")
    pool = await world.start()
    for name in (*columns, "good"):
        screen = await follow(pool, name)
        await screen.ended(await say(pool, "m1", name))
        await pool.destroy_instance("alice", name)
        await session_of(pool, name).log.settled()
    await world.crash(pool)
    for name in columns:
        spoil(world, name, "sessions", name, "x'ff'")
    again = await world.start()
    assert await states(again) == dict.fromkeys(columns, "faulted") | {"good": "parked"}
    assert again.instances() == []
    for name in columns:
        screen = await follow(again, name, "0")
        await soon(lambda: [f for f in screen.of_type("session") if f["state"] == "faulted"])  # noqa: B023
        assert screen.of_type("session")[-1]["reason"]["code"] == "not_restored"
        assert (await screen.ended(await say(again, "m2", name)))["state"] == "succeeded"
        await again.archive_session("alice", name)
        await session_of(again, name).log.settled()
    assert await states(again) == {"good": "parked"}
    await world.crash(again)
    third = await world.start()
    assert await states(third) == {"good": "parked"}
    assert counted(third, "sessions") == 0


async def test_one_whose_name_cannot_be_read_is_left_out_and_counted(world: World) -> None:
    pool = await world.start()
    for name in ("bad", "good"):
        await pool.get_or_create_instance("alice", name)
    bad = world.host.cli("bad")
    await world.crash(pool)
    spoil(world, "bad", "sessions", "session_id", "x'626164'")
    again = await world.start()
    assert await states(again) == {"good": "live"}
    assert counted(again, "sessions") == 1
    # Nobody can reach its process any more: it is ended.
    await soon(lambda: not bad.is_alive)
    screen = await follow(again, "good")
    assert (await screen.ended(await say(again, "m1", "good")))["state"] == "succeeded"


async def test_a_row_that_is_spoilt_while_the_server_runs_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pool = await world.start()
    await pool.create_session("alice", "bad")
    await pool.create_session("alice", "good")
    # Not in memory any more, as after a long rest.
    assert pool._supervisor.unload(session_of(pool, "bad"))
    spoil(world, "bad", "sessions", "remembered", "'['")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert await states(pool) == {"bad": "faulted", "good": "parked"}
    assert counted(pool, "sessions") == 1
    assert len([r for r in caplog.records if r.message == "a row of the database cannot be read"]) == 1
    assert (await pool.get_session("alice", "bad")).state is SessionState.FAULTED
