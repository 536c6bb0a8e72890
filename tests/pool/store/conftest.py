"""An open store: SQLite, and PostgreSQL where ``CLAUDE_POOL_TEST_POSTGRES`` has a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pool.store.sql import SqlStore
from tests.pool.store.kinds import KINDS, an_open_store


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with an_open_store(request.param, tmp_path) as store:
        yield store


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with an_open_store("sqlite", tmp_path) as store:
        yield store
