"""A short sample of ``make soak``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.cycles import Cycles
from tests.soak.day import day

SUCCESS = {"no fault: started", "deaf: started"}


@pytest.mark.timeout(120)
@pytest.mark.acceptance
async def test_nothing_is_left_of_starts_that_fail_now_and_then(short_dir: Path) -> None:
    short_dir.chmod(0o711)
    result = await Cycles(short_dir, 5, fault_share=0.2).run(20)
    assert result.left == []
    assert result.outcomes["no fault: started"] > 10
    assert result.outcomes.keys() - SUCCESS, "some of them failed"
    assert all("no fault" not in name or name in SUCCESS for name in result.outcomes)


@pytest.mark.timeout(120)
@pytest.mark.acceptance
async def test_nothing_is_left_of_turns_and_visits(short_dir: Path, fake_claude: Path) -> None:
    result = await day(short_dir, fake_claude, cycles=60, users=3, seed=2)
    assert result.left == []
    assert result.done.keys() == {"turn", "look in", "park"}
