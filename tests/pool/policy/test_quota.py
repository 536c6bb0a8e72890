"""A user's limits on what they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.config import Quota
from pool.policy.quota import TurnRate, Usage, check_queued_turns, check_session_count, check_usage, size_text

OPEN = Quota(workspace_bytes=None)


@pytest.mark.parametrize(
    ("quota", "used", "retry_after_seconds"),
    [
        ({"tokens_per_day": 100}, {"tokens_today": 100, "day_ends_in_seconds": 7200.0}, 7200.0),
        ({"usd_per_day": 1.5}, {"usd_today": 1.6, "day_ends_in_seconds": 10.0}, 10.0),
        ({"usd_per_month": 20.0}, {"usd_this_month": 20.0, "month_ends_in_seconds": 99.0}, 99.0),
        ({"cpu_seconds_per_hour": 60.0}, {"cpu_seconds_last_hour": 61.0}, 300.0),
        ({"workspace_bytes": 1000}, {"workspace_bytes": 2000}, 60.0),
    ],
)
def test_what_is_used_up_is_refused_until_it_comes_back(
    quota: dict[str, Any], used: dict[str, Any], retry_after_seconds: float
) -> None:
    error = check_usage(Usage(**used), Quota(**quota))
    assert error is not None
    assert error.code == "quota_exceeded"
    assert error.retry_after_seconds == retry_after_seconds
    (name,) = quota
    assert error.details["quota"] == name
    almost = {key: value / 4 for key, value in used.items()}
    assert check_usage(Usage(**almost), Quota(**quota)) is None


def test_sizes_are_told_in_words_that_people_read() -> None:
    error = check_usage(Usage(workspace_bytes=5_800_000_000), Quota(workspace_bytes=5368709120))
    assert error is not None
    assert "5.4 GiB of 5.0 GiB" in error.message
    assert [size_text(size) for size in (0, 1023, 1536, 5 << 20)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 MiB",
    ]


def test_without_limits_nothing_is_refused() -> None:
    usage = Usage(tokens_today=10**12, usd_today=1e6, usd_this_month=1e7, workspace_bytes=10**15)
    assert check_usage(usage, OPEN) is None
    assert check_session_count(10**6, Quota(max_sessions=None)) is None
    assert check_queued_turns(10**6, Quota(max_queued_turns=None)) is None


def test_sessions_and_queued_turns_are_counted() -> None:
    assert check_session_count(99, Quota()) is None
    refused = check_session_count(100, Quota())
    assert refused is not None
    assert refused.code == "quota_exceeded"
    assert check_queued_turns(19, Quota()) is None
    full = check_queued_turns(20, Quota())
    assert full is not None
    assert full.code == "quota_exceeded"
    assert full.details == {"quota": "max_queued_turns", "limit": 20, "used": 20}


def test_a_rate_says_when_there_is_room_again() -> None:
    rate = TurnRate()
    for now in (0.0, 10.0, 20.0):
        assert rate.check(3, now) is None
        rate.take(now)
    error = rate.check(3, 30.0)
    assert error is not None
    assert error.code == "rate_limited"
    assert error.retry_after_seconds == 30.0
    assert rate.check(3, 60.0) is None


def test_a_limit_that_was_lowered_meanwhile() -> None:
    rate = TurnRate()
    for now in (0.0, 10.0, 20.0):
        rate.take(now)
    error = rate.check(1, 30.0)
    assert error is not None
    assert error.retry_after_seconds == 50.0
    assert rate.check(None, 30.0) is None
    assert rate.check(0, 30.0) is not None


def test_an_old_rate_can_be_dropped() -> None:
    rate = TurnRate()
    rate.take(0.0)
    assert not rate.is_empty
    rate.check(1, 60.0)
    assert rate.is_empty


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 5))
def test_no_minute_ever_sees_more_than_the_limit(gaps: list[float], limit: int) -> None:
    rate, now = TurnRate(), 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        error = rate.check(limit, now)
        if error is None:
            rate.take(now)
            taken.append(now)
        else:
            assert error.retry_after_seconds is not None
            assert rate.check(limit, now + error.retry_after_seconds + 1e-6) is None or gap == 0
            # the look into the future has forgotten the past: begin anew
            rate, taken = TurnRate(), []
    for start in taken:
        assert len([time for time in taken if start <= time < start + 60.0]) <= limit
