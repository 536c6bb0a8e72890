"""Which URLs name a database, and what is refused without repeating a password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.errors import BadRequest, StoreUnavailable
from pool.store.engines import locate
from pool.store.sql import SqlStore


def test_without_a_url_it_is_a_file_in_the_data_directory(tmp_path: Path) -> None:
    location = locate(None, tmp_path)
    assert location.file == tmp_path / "claude-pool.db"
    assert location.url.drivername == "sqlite+pysqlite"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_a_server_is_spoken_to_by_one_driver(tmp_path: Path, scheme: str) -> None:
    location = locate(f"{scheme}://u:p@db:5432/pool", tmp_path)
    assert location.file is None
    assert location.url.drivername == "postgresql+psycopg"
    assert location.url.password == "p"


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://u:secret@db/x", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"],
)
def test_other_urls_are_refused_without_their_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        locate(url, tmp_path)
    assert "secret" not in caught.value.message
    assert caught.value.__context__ is None or caught.value.__suppress_context__


async def test_the_file_and_its_journal_are_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqlStore(None, tmp_path)
        await store.open()
        await store.check()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        await store.aclose()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("claude-pool.db", "claude-pool.db-wal", "claude-pool.db-shm"), 0o600)


async def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in ("sqlite+aiosqlite:////proc/nowhere/x.db", f"sqlite+aiosqlite:///{tmp_path}/file/x.db"):
        store = SqlStore(url, tmp_path)
        with pytest.raises(StoreUnavailable):
            await store.open()
        await store.aclose()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "claude-pool.db"
    file.write_bytes(b"these are my notes, not a database" * 100)
    store = SqlStore(None, tmp_path)
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.aclose()
    assert file.read_bytes().startswith(b"these are my notes")
