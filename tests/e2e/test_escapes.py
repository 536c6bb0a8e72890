"""What a hostile program in a session gets at: tried, and equal to what ``docs/isolation.md`` says."""

from __future__ import annotations

import asyncio
import os

import pytest

from pool.launch.isolation import probe
from tests.e2e.escape_attempts import ATTEMPTS
from tests.e2e.escapes import COLUMNS, cells, columns_here, documented, run_column

pytestmark = pytest.mark.skipif(
    not (probe().cuts_network and probe().filters_calls and probe().disables_nesting),
    reason="no bubblewrap that can do all of it",
)

# the kernel counts no processes of the host's root
OPEN_AS_ROOT = {"start processes without end"}


@pytest.mark.timeout(150)
async def test_every_attempt_ends_as_the_page_says() -> None:
    here = columns_here()
    results = await asyncio.gather(*(asyncio.to_thread(run_column, name) for name in here))
    for name, outcomes in zip(here, results, strict=True):
        assert not {words: told for words, told in outcomes.items() if told.startswith("broken")}, name
        got_through = {words for words, told in outcomes.items() if told == "open"}
        if COLUMNS[name][0] != "none":
            assert got_through == (OPEN_AS_ROOT if COLUMNS[name][1] else set()), name
        else:
            # else the attempts themselves are not able to get through anything
            assert len(got_through) > 30
        assert cells(name, outcomes) == documented()[name], name


def test_the_page_has_every_attempt_once() -> None:
    words = [one.words for one in ATTEMPTS]
    assert len(words) == len(set(words)) >= 40
    for column in documented().values():
        assert list(column) == words
    assert set(documented()) == set(COLUMNS)


def test_root_can_run_every_column() -> None:
    assert (set(columns_here()) == set(COLUMNS)) == (os.geteuid() == 0)
