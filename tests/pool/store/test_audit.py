"""The audit log as it is kept: every change of it is found, whatever moment a kill came at."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pool.audit.records import AuditEntry, Place, hash_of, sealed
from pool.audit.verifying import Verdict
from pool.errors import Conflict, NotFound, StoreUnavailable
from pool.model import TurnId
from pool.store.audit import AuditLog, snapshot, verify
from pool.store.audit_head import HEAD_NAME
from pool.store.base import AppendAudit, Operation, PatchTurn, PutSession, PutTurn
from pool.store.sql import SqlStore
from tests.pool.store.kinds import an_open_store
from tests.pool.store.records import BOB, a_session, a_turn

DATABASE = "claude-pool.db"
REST = "at, action, actor, user_id, facts, previous, hash"


def deed(number: int = 1, *, user_id: str | None = "alice", actor: str = "alice") -> AuditEntry:
    facts = {"number": number, "words": "ä\0\ud800 ok"}
    return AuditEntry(action="prompt", at=1000.0 + number, actor=actor, user_id=user_id, facts=facts)


@pytest.fixture
async def log(sqlite_store: SqlStore) -> AuditLog:
    return AuditLog(sqlite_store.database)


async def test_records_are_numbered_chained_and_read_back(store: SqlStore, tmp_path: Path) -> None:
    log = AuditLog(store.database)
    await log.append(deed(1), deed(2))
    await log.append(deed(3, user_id="bob", actor="admin"))
    records = await log.page()
    assert [record.seq for record in records] == [1, 2, 3]
    assert records[2].previous == records[1].hash
    assert all(record.is_sealed() for record in records)
    assert records[0].as_line()["facts"] == {"number": 1, "words": "ä\0\ud800 ok"}
    assert [one.seq for one in await log.page(user_id="admin")] == [3]
    assert [one.seq for one in await log.page(user_id="alice", newest_first=True, limit=1)] == [2]
    assert [one.seq for one in await log.page(after=1, before=3)] == [2]


async def test_a_record_is_stored_with_its_fact_or_not_at_all(sqlite_store: SqlStore, log: AuditLog) -> None:
    await sqlite_store.commit([PutSession(a_session()), AppendAudit([deed(1)])])
    with pytest.raises(Conflict):
        await sqlite_store.commit([AppendAudit([deed(2)]), PutSession(a_session())])
    await log.append(deed(3))
    assert [one.as_line()["facts"]["number"] for one in await log.page()] == [1, 3]


async def test_a_commit_that_fails_among_others_leaves_no_hole(
    sqlite_store: SqlStore, log: AuditLog, tmp_path: Path
) -> None:
    commits = [log.append(deed(number)) for number in range(5)]
    bad = sqlite_store.commit([AppendAudit([deed(99)]), PutTurn(a_turn())])
    results = await asyncio.gather(*commits, bad, log.append(deed(6)), return_exceptions=True)
    assert isinstance(results[5], Exception)
    verdict = await verify(tmp_path, None)
    assert verdict.problems == ()
    assert verdict.records == 6


async def test_a_record_that_is_taken_back_beside_work_without_one_leaves_no_hole(
    sqlite_store: SqlStore, log: AuditLog, tmp_path: Path
) -> None:
    await log.append(deed(1))
    bad: list[Operation] = [AppendAudit([deed(99)]), PutTurn(a_turn(BOB))]
    await asyncio.gather(
        sqlite_store.commit([PutSession(a_session())]), sqlite_store.commit(bad), return_exceptions=True
    )
    with pytest.raises(NotFound):
        await sqlite_store.commit([AppendAudit([deed(98)]), PatchTurn(TurnId("none"), {"position": 1})])
    await sqlite_store.check()
    await log.append(deed(2))
    assert [one.seq for one in await log.page()] == [1, 2]
    assert (await verify(tmp_path, None)).problems == ()


async def written(data_dir: Path, count: int = 6) -> None:
    """A log of ``count`` records whose server has ended."""
    async with an_open_store("sqlite", data_dir) as store:
        log = AuditLog(store.database)
        for number in range(1, count + 1):
            await log.append(deed(number, user_id=None if number % 3 == 0 else "alice"))


@pytest.fixture
async def data_dir(tmp_path: Path) -> Path:
    await written(tmp_path)
    return tmp_path


def change(data_dir: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(data_dir / DATABASE)) as connection, connection:
        connection.execute(sql, values)


async def problems(data_dir: Path, *expected: tuple[str, Place]) -> str:
    return "\n".join((await verify(data_dir, None, expected)).problems)


async def test_what_is_whole_is_called_whole(data_dir: Path) -> None:
    verdict = await verify(data_dir, None)
    assert verdict == Verdict((), 6, 1, verdict.end)
    assert verdict.end.seq == 6
    assert await problems(data_dir, ("yours", verdict.end)) == ""
    assert (data_dir / HEAD_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("UPDATE audit SET actor = 'bob' WHERE seq = 3", "record 3 was changed"),
        ("UPDATE audit SET user_id = '' WHERE seq = 3", "record 3 was changed"),
        ("UPDATE audit SET facts = facts || ' ' WHERE seq = 3", "record 3 was changed"),
        ("UPDATE audit SET facts = CAST(x'ff' AS TEXT) WHERE seq = 3", "record 3 was changed"),
        ("UPDATE audit SET hash = 'none' WHERE seq = 3", "record 3 was changed"),
        ("DELETE FROM audit WHERE seq = 3", "record 3 is missing"),
        ("DELETE FROM audit WHERE seq IN (3, 4)", "records 3 to 4 are missing"),
        ("DELETE FROM audit WHERE seq = 1", "record 1 is missing"),
        ("DELETE FROM audit WHERE seq > 4", "records 5 to 6 are missing at the end"),
        ("DELETE FROM audit", "records 1 to 6 are missing at the end"),
        ("UPDATE audit SET seq = 60 WHERE seq = 3", "record 60 was changed"),
        (f"INSERT INTO audit SELECT 0, {REST} FROM audit LIMIT 1", "record 0 was changed"),
    ],
)
async def test_a_change_is_found(data_dir: Path, sql: str, found: str) -> None:
    change(data_dir, sql)
    assert found in await problems(data_dir)


async def test_records_that_were_swapped_are_found(data_dir: Path) -> None:
    change(data_dir, "UPDATE audit SET seq = 100 WHERE seq = 2")
    change(data_dir, "UPDATE audit SET seq = 2 WHERE seq = 3")
    change(data_dir, "UPDATE audit SET seq = 3 WHERE seq = 100")
    assert "record 2 was changed" in await problems(data_dir)


async def test_a_rewritten_end_is_found_by_the_head_and_by_what_somebody_wrote_down(data_dir: Path) -> None:
    kept = (await verify(data_dir, None)).end
    with snapshot(data_dir, None) as pages:
        records = [record for page in pages for record in page]
    forged = sealed([deed(5, actor="mallory"), deed(6, user_id=None)], Place(4, records[3].hash))
    for one in forged:
        change(
            data_dir,
            "UPDATE audit SET at = ?, actor = ?, facts = ?, previous = ?, hash = ? WHERE seq = ?",
            *(one.at, one.actor, one.facts, one.previous, one.hash, one.seq),
        )
    assert "record 6 is not the one of the head file" in await problems(data_dir)
    end = Place(6, forged[-1].hash)
    (data_dir / HEAD_NAME).write_text(f"{end!s:<95}\n{'':<95}\n")
    assert await problems(data_dir) == ""  # with the head file rewritten too, only an outsider can tell
    assert "record 6 is not the one of yours" in await problems(data_dir, ("yours", kept))


async def test_a_record_that_was_put_behind_the_end_is_found(data_dir: Path) -> None:
    end = (await verify(data_dir, None)).end
    [forged] = sealed([deed(7)], end)
    row = (7, forged.at, "prompt", "alice", "alice", forged.facts, forged.previous, forged.hash)
    change(data_dir, "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
    assert "record 7 is not the server's" in await problems(data_dir)


async def test_a_cut_tail_stays_visible_when_the_server_goes_on(data_dir: Path) -> None:
    change(data_dir, "DELETE FROM audit WHERE seq > 4")
    async with an_open_store("sqlite", data_dir) as store:
        log = AuditLog(store.database)
        await log.append(deed(9))
        assert [(one.seq, one.action) for one in await log.page(after=4)] == [
            (7, "audit.end_missing"),
            (8, "prompt"),
        ]
    assert "records 5 to 6 are missing" in await problems(data_dir)


async def test_what_is_cut_or_added_under_a_running_server_stays_visible(
    sqlite_store: SqlStore, log: AuditLog, tmp_path: Path
) -> None:
    await log.append(deed(1), deed(2), deed(3))
    change(tmp_path, "DELETE FROM audit WHERE seq = 3")
    await log.append(deed(4))
    assert "record 3 is missing" in await problems(tmp_path)
    end = (await verify(tmp_path, None)).end
    [forged] = sealed([deed(5)], end)
    row = (forged.seq, forged.at, "prompt", "alice", "alice", forged.facts, forged.previous, forged.hash)
    change(tmp_path, "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
    await log.append(deed(6))
    assert "audit.foreign_record" in [one.action for one in await log.page()]


async def test_a_head_file_that_went_away_is_told_and_noted(data_dir: Path) -> None:
    (data_dir / HEAD_NAME).unlink()
    assert "the head file is missing" in await problems(data_dir)
    async with an_open_store("sqlite", data_dir) as store:
        await AuditLog(store.database).append(deed(7))
        assert (await AuditLog(store.database).page(after=6))[0].action == "audit.head_missing"
    assert await problems(data_dir) == ""
    (data_dir / HEAD_NAME).write_text("nonsense")
    with pytest.raises(StoreUnavailable, match="head file"):
        await verify(data_dir, None)


async def test_a_link_in_the_place_of_the_head_file_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / HEAD_NAME).symlink_to(target)
    async with an_open_store("sqlite", tmp_path) as store:
        log = AuditLog(store.database)
        await log.append(deed())
        assert log.trouble is not None
    assert target.read_text() == "precious"


async def test_pruning_leaves_a_chain_that_can_be_verified(data_dir: Path) -> None:
    async with an_open_store("sqlite", data_dir) as store:
        log = AuditLog(store.database)
        assert await log.prune(1003.5) == 3
        assert [one.seq for one in await log.page()] == [4, 5, 6, 7]
        assert await log.prune(1003.5) == 0
        await log.append(deed(8))
    assert await problems(data_dir) == ""
    change(data_dir, "DELETE FROM audit WHERE seq = 4")
    assert "record 4 is missing" in await problems(data_dir)


async def test_a_log_that_is_all_old_keeps_its_checkpoint(data_dir: Path) -> None:
    async with an_open_store("sqlite", data_dir) as store:
        log = AuditLog(store.database)
        assert await log.prune(9999.0) == 6
        assert [one.action for one in await log.page()] == ["audit.pruned"]
    assert await problems(data_dir) == ""


async def test_a_pruning_that_was_cut_short_can_be_verified_too(data_dir: Path) -> None:
    async with an_open_store("sqlite", data_dir) as store:
        await AuditLog(store.database).prune(1002.5)
    async with an_open_store("sqlite", data_dir) as store:
        log = AuditLog(store.database)
        [fourth] = await log.page(after=3, before=5)
        facts = {"through": 5, "hash": (await log.page(after=4, before=6))[0].hash.hex()}
        await log.append(AuditEntry(action="audit.pruned", at=1.0, actor="@server", facts=facts))
    change(data_dir, "DELETE FROM audit WHERE seq <= ?", fourth.seq - 1)
    assert await problems(data_dir) == ""


def test_a_kill_at_any_moment_leaves_every_turn_with_its_record(tmp_path: Path) -> None:
    for _round in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.pool.store.audited_program", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _line in range(60):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert_whole(tmp_path)


def assert_whole(data_dir: Path) -> None:
    verdict = asyncio.run(verify(data_dir, None))
    assert verdict.problems == ()
    with closing(sqlite3.connect(data_dir / DATABASE)) as connection:
        turns = {row[0] for row in connection.execute("SELECT turn_id FROM turns")}
        told = [row[0] for row in connection.execute("SELECT json_extract(facts, '$.turn') FROM audit")]
        assert len(told) == len(set(told))
        assert set(told) == turns


async def test_a_stuck_database_refuses_the_deed(tmp_path: Path) -> None:
    store = SqlStore(None, tmp_path, busy_timeout_seconds=0.05, patience_seconds=0.1)
    await store.open()
    try:
        log = AuditLog(store.database)
        await log.append(deed(1))
        with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await log.append(deed(2))
            other.execute("ROLLBACK")
        await log.append(deed(3))
        assert [one.as_line()["facts"]["number"] for one in await log.page()] == [1, 3]
        assert await problems(tmp_path) == ""
    finally:
        await store.aclose()


async def test_verifying_while_the_server_writes_finds_nothing_wrong(log: AuditLog, tmp_path: Path) -> None:
    done = asyncio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await log.append(deed(number))
            if number % 40 == 0:
                await log.prune(1000.0 + number - 20)

    writing = asyncio.create_task(write(), name="writing")
    try:
        for _ in range(25):
            assert (await verify(tmp_path, None)).problems == ()
    finally:
        done.set()
        await writing


def test_a_text_has_the_hash_that_anybody_can_work_out() -> None:
    assert hash_of("hello") == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert hash_of({"b": 1, "a": [2]}) == hash_of('{"a":[2],"b":1}')
