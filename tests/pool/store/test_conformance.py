"""The stores that there are, each against the conformance suite."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from pool.store.engines import locate
from pool.store.sql import SqlStore
from tests.conformance.store import StoreConformance

POSTGRES = os.environ.get("CLAUDE_POOL_TEST_POSTGRES")


class TestSqlite(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqlStore]:
        store = SqlStore(None, tmp_path)
        await store.open()
        yield store
        await store.aclose()


if POSTGRES is not None:

    class TestPostgres(StoreConformance):
        @pytest.fixture
        async def store(self, tmp_path: Path) -> AsyncIterator[SqlStore]:
            async with a_schema(str(POSTGRES), tmp_path) as url:
                store = SqlStore(url, tmp_path)
                await store.open()
                yield store
                await store.aclose()


@contextlib.asynccontextmanager
async def a_schema(url: str, data_dir: Path) -> AsyncIterator[str]:
    """A schema of our own in the given database, gone afterwards."""
    name = f"cp_{secrets.token_hex(6)}"
    location = locate(url, data_dir)
    engine = sa.create_engine(location.sync_url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        own = location.sync_url.update_query_dict({"options": f"-csearch_path={name}"})
        yield own.render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    finally:
        engine.dispose()
