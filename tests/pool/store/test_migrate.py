"""The schema: made from nothing, carried over with a copy, never touched when it is too new."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pool.errors import StoreUnavailable
from pool.store import migrate as migrate_module
from pool.store.accounts import Accounts
from pool.store.base import PutSession
from pool.store.engines import locate, writing_engine
from pool.store.sql import SqlStore
from pool.store.tables import metadata
from tests.pool.store.records import ALICE, a_session

# of this program, and of one that is a version further
NOW = migrate_module.HEAD
LATER = f"{int(NOW) + 1:04}"

NEXT = '''"""A later version."""

import sqlalchemy as sa
from alembic import op

revision = "{later}"
down_revision = "{now}"


def upgrade() -> None:
    op.create_table("later", sa.Column("x", sa.Integer, primary_key=True))
    {and_then}
'''


async def make(data_dir: Path) -> None:
    store = SqlStore(None, data_dir)
    await store.open()
    await store.commit([PutSession(a_session(title="kept"))])
    await store.aclose()


def ask(file: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(sql).fetchall()


def tables(file: Path) -> set[object]:
    return {row[0] for row in ask(file, "SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is one version further; returns its new migration."""
    scripts = tmp_path / "scripts"
    shutil.copytree(Path(migrate_module.__file__).parent / "migrations", scripts)
    script = scripts / "versions" / f"{LATER}_later.py"
    script.write_text(NEXT.format(now=NOW, later=LATER, and_then=""))
    monkeypatch.setattr(migrate_module, "_SCRIPTS", scripts)
    monkeypatch.setattr(migrate_module, "HEAD", LATER)
    return script


def schema(file: Path) -> set[tuple[object, ...]]:
    """Everything that SQLite knows of, however it is laid out on lines."""
    rows = ask(file, "SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {(*row[:3], " ".join(str(row[3]).split())) for row in rows}


async def test_the_versions_arrive_at_the_tables_that_a_new_file_gets(tmp_path: Path) -> None:
    await make(tmp_path)
    grown = tmp_path / "grown.db"
    engine = sa.create_engine(f"sqlite:///{grown}")
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrate_module, "HEAD", "0001")
        migrate_module.migrate(engine, grown)
    migrate_module.migrate(engine, grown)
    assert ask(grown, "SELECT version_num FROM alembic_version") == [(NOW,)]
    assert schema(grown) == schema(tmp_path / "claude-pool.db")
    with engine.connect() as connection, warnings.catch_warnings():
        # Neither can compare the two indexes on lower(); they are in the schema that is compared above.
        warnings.filterwarnings("ignore", message=".*expression-based index.*")
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_two_that_make_the_same_new_file_at_once_both_find_it_made(tmp_path: Path) -> None:
    file = tmp_path / "claude-pool.db"
    location = locate(None, tmp_path)
    start = threading.Barrier(4)

    def one() -> None:
        engine = writing_engine(location, busy_timeout_seconds=20)
        start.wait()
        migrate_module.migrate(engine, file)
        engine.dispose()

    with ThreadPoolExecutor(4) as threads:
        for made in [threads.submit(one) for _ in range(4)]:
            made.result()
    assert ask(file, "SELECT version_num FROM alembic_version") == [(NOW,)]


async def test_opening_again_changes_nothing_and_copies_nothing(tmp_path: Path) -> None:
    await make(tmp_path)
    store = SqlStore(None, tmp_path)
    await store.open()
    assert await store.get_session(ALICE) == a_session(title="kept")
    await store.aclose()
    assert [path.name for path in tmp_path.iterdir()] == ["claude-pool.db"]


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    await make(tmp_path)
    file = tmp_path / "claude-pool.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    store = SqlStore(None, tmp_path)
    with pytest.raises(StoreUnavailable, match="9999") as caught:
        await store.open()
    assert caught.value.details == {"schema": "9999", "known": NOW}
    await store.aclose()
    assert ask(file, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert ask(file, "SELECT title FROM sessions") == [("kept",)]
    assert not list(tmp_path.glob("*.bak-*"))


async def test_an_older_schema_is_copied_and_carried_over(tmp_path: Path, next_version: Path) -> None:
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrate_module, "HEAD", NOW)
        await make(tmp_path)
    store = SqlStore(None, tmp_path)
    await store.open()
    assert await store.get_session(ALICE) == a_session(title="kept")
    await store.aclose()
    file, copy = tmp_path / "claude-pool.db", tmp_path / f"claude-pool.db.bak-{NOW}"
    assert "later" in tables(file)
    assert "later" not in tables(copy)
    assert ask(copy, "SELECT title FROM sessions") == [("kept",)]
    assert copy.stat().st_mode & 0o777 == 0o600


REVISIONS = [f"{number:04}" for number in range(1, int(NOW))]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_the_schema_of_every_earlier_version_is_copied_and_carried_over(
    tmp_path: Path, revision: str
) -> None:
    file, copy = tmp_path / "claude-pool.db", tmp_path / f"claude-pool.db.bak-{revision}"
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrate_module, "HEAD", revision)
        engine = sa.create_engine(f"sqlite:///{file}")
        migrate_module.migrate(engine, file)
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO users VALUES ('alice', NULL, '[]', 0, 1.5)")
        engine.dispose()
    old = tables(file)
    store = SqlStore(None, tmp_path)
    await store.open()
    await store.check()
    account = await Accounts(store.database).get_user("alice")
    assert account is not None
    await store.aclose()
    assert ask(file, "SELECT version_num FROM alembic_version") == [(NOW,)]
    assert ask(copy, "SELECT version_num FROM alembic_version") == [(revision,)]
    assert ask(copy, "SELECT user_id FROM users") == [("alice",)]
    assert tables(copy) == old
    assert copy.stat().st_mode & 0o777 == 0o600


async def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path, next_version: Path) -> None:
    next_version.write_text(
        NEXT.format(now=NOW, later=LATER, and_then='op.execute("INSERT INTO nowhere VALUES (1)")')
    )
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrate_module, "HEAD", NOW)
        await make(tmp_path)
    store = SqlStore(None, tmp_path)
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.aclose()
    file = tmp_path / "claude-pool.db"
    assert "later" not in tables(file)
    assert ask(file, "SELECT version_num FROM alembic_version") == [(NOW,)]
    with pytest.MonkeyPatch.context() as before:
        before.setattr(migrate_module, "HEAD", NOW)
        again = SqlStore(None, tmp_path)
        await again.open()
        await again.check()
        await again.aclose()
