"""One value that cannot be read costs its own row: whatever stands in whichever column."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from pool.model import SessionState, TurnState
from pool.store.base import (
    OpenWork,
    PutInstance,
    PutPermission,
    PutSession,
    PutTurn,
    SpoiltRow,
)
from pool.store.engines import DATABASE_NAME
from pool.store.spoilt import find_spoilt_rows
from pool.store.sql import SqlStore
from pool.store.tables import instances, permissions, sessions, turns
from tests.pool.store.records import ALICE, BOB, a_session, a_turn, an_approval, an_instance

# a word that nobody knows, bytes, text that is none, half a number, infinity, JSON of another form
SPOILT = ("'no such word'", "x'ff00fe'", "CAST(x'c3' AS TEXT)", "-1.5", "9e999", "'[[]]'")
TABLES = (sessions, instances, turns, permissions)


@pytest.fixture
async def store(short_dir: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore(None, short_dir)
    await store.open()
    for key in (ALICE, BOB):
        await store.commit(
            [
                PutSession(a_session(key, remembered={"rules": [{"toolName": "Bash"}], "directories": []})),
                PutInstance(an_instance(key)),
                PutTurn(a_turn(key, reason={"pending": None})),
                PutPermission(an_approval(key)),
            ]
        )
    yield store
    await store.aclose()


def spoil(directory: Path, table: str, column: str, value: str) -> None:
    """Put ``value``, an expression of SQL, into Alice's row."""
    named = "user_id = 'alice'" if table == "sessions" else "session = (SELECT min(id) FROM sessions)"
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as database, database:
        database.execute(f"UPDATE {table} SET {column} = {value} WHERE {named}")


def found_in(directory: Path, table: str, column: str) -> object:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as database:
        return database.execute(f"SELECT {column} FROM {table} ORDER BY rowid").fetchone()[0]


def put_back(directory: Path, table: str, column: str, value: object) -> None:
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = 1", (value,))


def of_bob(work: list[OpenWork]) -> OpenWork:
    (found,) = (item for item in work if item.session.key == BOB)
    return found


NEEDED = ("key", "title", "state", "template", "permission_mode", "position", "next_ordinal", "created_at")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_whatever_stands_in_a_column_the_others_are_read_and_the_row_is_named(
    store: SqlStore, short_dir: Path, table: sa.Table
) -> None:
    whole = of_bob([*await store.open_work()])
    # SQLite's own row id takes nothing but a number, and so does what points to it.
    columns = [column.name for column in table.c if column.name not in ("id", "session")]
    for column, odd in zip(columns, itertools.cycle(SPOILT[2:]), strict=False):
        was = found_in(short_dir, table.name, column)
        for value in (*SPOILT[:2], odd):
            told: list[SpoiltRow] = []
            store.on_spoilt = told.append
            spoil(short_dir, table.name, column, value)
            work = [*await store.open_work()]
            # The other user's rows are as they were.
            assert of_bob(work) == whole
            assert [*await store.list_sessions(BOB.user_id)] == [whole.session]
            assert await store.find_turn(BOB, "m-1") == whole.turns[0]
            await store.list_sessions(ALICE.user_id)
            await store.find_turn(ALICE, "m-1")
            # Told is where it is, and never what it is.
            assert column in ("user_id", "session_id") or {row.table for row in told} <= {table.name}
            assert "no such word" not in str([row.fields for row in told])
            for alice in [item for item in work if item.session.key == ALICE]:
                assert set(alice.spoilt) == {row for row in told if row.key == ALICE}
                assert all(getattr(alice.session, name) is not None for name in NEEDED)
        put_back(short_dir, table.name, column, was)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("sessions", "state"),
        ("sessions", "permission_mode"),
        ("sessions", "remembered"),
        ("instances", "state"),
        ("turns", "state"),
        ("turns", "origin"),
        ("turns", "reason"),
        ("permissions", "state"),
        ("permissions", "request"),
    ],
)
async def test_an_unknown_word_or_broken_json_is_told_by_table_row_and_column(
    store: SqlStore, short_dir: Path, table: str, column: str
) -> None:
    told: list[SpoiltRow] = []
    store.on_spoilt = told.append
    spoil(short_dir, table, column, "'{no such word'")
    (alice,) = [item for item in await store.open_work() if item.session.key == ALICE]
    names = {
        "sessions": "1",
        "instances": "i-alice-default-1",
        "turns": "t-alice-default-1",
        "permissions": "i-alice-default-1/r-1",
    }
    assert told == [*alice.spoilt] == [SpoiltRow(table, names[table], (column,), ALICE)]
    # An operator is told the same without a server, and beside one.
    assert await find_spoilt_rows(short_dir, None) == told


async def test_what_stands_in_place_allows_nothing(store: SqlStore, short_dir: Path) -> None:
    for column in ("state", "permission_mode", "remembered", "model"):
        spoil(short_dir, "sessions", column, "x'00'")
    spoil(short_dir, "turns", "state", "'archived'")
    spoil(short_dir, "permissions", "state", "'allowed'")
    (alice,) = [item for item in await store.open_work() if item.session.key == ALICE]
    assert alice.session == replace(
        a_session(),
        state=SessionState.FAULTED,
        spoilt=("state", "model", "permission_mode", "remembered"),
    )
    assert [turn.state for turn in alice.turns] == [TurnState.LOST]
    assert [(one.state, one.answer) for one in alice.permissions] == [("open", None)]


async def test_a_session_that_was_put_away_stays_so(store: SqlStore, short_dir: Path) -> None:
    spoil(short_dir, "sessions", "state", "'archived'")
    spoil(short_dir, "sessions", "remembered", "'{'")
    record = await store.get_session(ALICE)
    assert record is not None
    assert (record.state, record.spoilt) == (SessionState.ARCHIVED, ("remembered",))
