"""The kinds of store that can be had here, each opened empty."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import sqlalchemy as sa

from pool.store.engines import locate
from pool.store.sql import SqlStore

POSTGRES = os.environ.get("CLAUDE_POOL_TEST_POSTGRES")
KINDS = ["sqlite", "postgresql"] if POSTGRES else ["sqlite"]


@contextlib.asynccontextmanager
async def an_open_store(kind: str, data_dir: Path) -> AsyncIterator[SqlStore]:
    """An empty store of ``kind``; what it kept is gone afterwards."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(a_schema(str(POSTGRES), data_dir)) if kind == "postgresql" else None
        store = SqlStore(url, data_dir)
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()


@contextlib.contextmanager
def a_schema(url: str, data_dir: Path) -> Iterator[str]:
    """A schema of our own in a PostgreSQL database, gone afterwards."""
    name = f"cp_{secrets.token_hex(6)}"
    location = locate(url, data_dir)
    engine = sa.create_engine(location.url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        own = location.url.update_query_dict({"options": f"-csearch_path={name}"})
        yield own.render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    finally:
        engine.dispose()
