"""A short sample of ``make crowd``; and what its figures are worth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crowd.figures import percentile, slope
from tests.crowd.run import Crowd, Plan

SAMPLE = Plan(
    seed=5,
    seconds=10,
    known=40,
    connected=16,
    live=8,
    visit_seconds=4,
    idle_timeout_seconds=6,
    unload_seconds=1,
    idle_look_seconds=1,
    look_seconds=1,
    words=5,
    pause_ms=20,
)


@pytest.mark.timeout(180)
@pytest.mark.acceptance
async def test_nothing_stays_of_people_who_come_and_go(short_dir: Path, fake_claude: Path) -> None:
    short_dir.chmod(0o711)
    crowd = Crowd(SAMPLE, short_dir, fake_claude)
    await crowd.play()
    assert not crowd.story.failures, "\n".join(crowd.story.failures)
    assert crowd.counted["turns"] > SAMPLE.connected
    assert crowd.counted["compared"] > SAMPLE.live
    assert len(crowd.fan_out.all) > SAMPLE.words
    assert 0 < crowd.most_live <= SAMPLE.live
    assert len(crowd.idle_cpu) == 2


def test_a_slope_is_found_below_the_noise() -> None:
    points = [(float(x), 100 + 0.5 * x + (-1) ** x) for x in range(100)]
    assert slope(points) == pytest.approx(0.5, abs=0.01)
    assert slope([(0.0, 1.0)]) == 0


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.99) == 100
    assert percentile([], 0.99) == 0
