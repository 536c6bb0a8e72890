"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.site import Site, running


@pytest.fixture
async def site(short_dir: Path) -> AsyncIterator[Site]:
    """A server with the default configuration."""
    async with running(short_dir) as made:
        yield made
