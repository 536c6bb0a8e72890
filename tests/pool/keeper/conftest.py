"""The rig, and the two ways to wrap a CLI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pool.launch.isolation import probe
from tests.pool.keeper.rig import Rig


@pytest.fixture
async def rig(short_dir: Path, forked_keepers: None) -> AsyncIterator[Rig]:
    """A data directory and the keepers on it; all of them are gone afterwards."""
    rig = Rig(short_dir)
    yield rig
    await rig.close()


@pytest.fixture(params=["shim", "bwrap"])
def wrapper(request: pytest.FixtureRequest) -> str:
    """Each way to wrap a CLI; bubblewrap only where it works."""
    name = str(request.param)
    if name == "bwrap" and not probe().works:
        pytest.skip(f"no bubblewrap that works: {probe().detail}")
    return name
