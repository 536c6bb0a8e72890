"""Calls and tokens a minute, of a user and of a team; budgets of teams."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.gateway.budgets import RateLimits, write_budgets
from server.gateway.elsewhere import elsewhere_path, write_elsewhere
from server.gateway.rates import WINDOW_SECONDS, Rates
from server.gateway.settings import GatewayConfigError
from server.gateway.spending import day_of, month_of
from tests.server.gateway.harness import asking, gateway_for, scripted_upstream
from tests.server.gateway.test_metering import USED, ask, point_to, whole

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
ALICE = ("user", "alice")


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=30),
    st.integers(1, 200),
    st.floats(0, 30),
)
def test_never_more_than_the_limit_and_as_soon_as_there_is_room(
    steps: list[tuple[float, int]], limit: int, later: float
) -> None:
    """Held against sums over the whole history."""
    now = 0.0
    rates = Rates(lambda: now)
    limits = RateLimits(model_tokens_per_minute=limit)
    told: list[tuple[float, int]] = []
    for pause, tokens in steps:
        now += pause
        rates.count(ALICE, tokens=tokens)
        told.append((now, tokens))
    now += later

    def used(at: float) -> int:
        return sum(tokens for when, tokens in told if at - WINDOW_SECONDS < when <= at)

    reached = rates.reached(ALICE, limits)
    assert (reached is not None) == (used(now) >= limit)
    if reached is not None:
        assert 0 < reached.seconds <= WINDOW_SECONDS
        now += reached.seconds + 1e-6
        assert rates.reached(ALICE, limits) is None


def test_of_two_rates_the_longer_wait_is_told_and_a_limit_of_zero_lets_nothing_through() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    both = RateLimits(model_calls_per_minute=1, model_tokens_per_minute=10)
    rates.count(ALICE, calls=1)
    now = 20.0
    rates.count(ALICE, tokens=10)
    reached = rates.reached(ALICE, both)
    assert reached is not None
    assert (reached.name, reached.seconds) == ("model_tokens_per_minute", 60.0)
    assert rates.reached(("user", "new"), RateLimits(model_calls_per_minute=0)) is not None
    assert rates.reached(("user", "new"), both) is None


def test_whoever_is_quiet_is_forgotten() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    for number in range(500):
        rates.count(("user", str(number)), calls=1)
    now = 2 * WINDOW_SECONDS
    for _ in range(1000):
        rates.count(ALICE, calls=1)
    assert set(rates._windows) == {ALICE}


async def refusal(client: aiohttp.ClientSession) -> tuple[int, Mapping[str, str], str]:
    async with client.post("/v1/messages", json=asking("x")) as response:
        body: dict[str, Any] = await response.json()
        return response.status, response.headers, body.get("error", {}).get("message", "")


@pytest.mark.parametrize(
    "limits", [{"model_calls_per_minute": 2}, {"model_tokens_per_minute": 2 * USED.total}]
)
async def test_who_is_too_fast_is_told_to_wait_and_others_are_not(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    now = [1000.0]
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob", monotonic=lambda: now[0]) as (alice, bob),
    ):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {}, {"alice": limits})
        assert [(await ask(alice))[0] for _ in range(2)] == [200, 200]
        now[0] += 20
        status, headers, message = await refusal(alice)
        assert (status, headers["x-should-retry"], headers["retry-after"]) == (429, "true", "40")
        assert next(iter(limits)) in message
        assert (await ask(bob))[0] == 200
        now[0] += 41
        assert (await ask(alice))[0] == 200
    assert len(upstream.targets) == 4


async def test_a_team_at_its_limit_stops_all_its_members_and_nobody_else(tmp_path: Path) -> None:
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob", "carol", wall=lambda: NOON) as (alice, bob, carol),
    ):
        point_to(tmp_path, upstream)
        team = {"members": ["alice", "bob"], "tokens_per_day": 3 * USED.total}
        write_budgets(tmp_path, {}, {}, {"lab": team})
        assert [(await ask(one))[0] for one in (alice, bob, alice)] == [200] * 3
        for one in (alice, bob):
            status, headers, message = await refusal(one)
            assert (status, headers["x-should-retry"]) == (429, "false")
            assert "tokens_per_day of the team lab: 1,569 of 1,569 used" in message
            assert "resets at 2026-03-16 00:00 UTC" in message
        assert (await ask(carol))[0] == 200
        # A change holds from the next call.
        write_budgets(tmp_path, {}, {}, {"lab": {**team, "members": ["alice"]}})
        assert (await ask(bob))[0] == 200


async def test_what_a_team_used_on_other_machines_counts_for_its_day(tmp_path: Path) -> None:
    now = [NOON]
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob", wall=lambda: now[0]) as (alice, bob),
    ):
        point_to(tmp_path, upstream)
        team = {"members": ["alice"], "tokens_per_day": 3 * USED.total}
        write_budgets(tmp_path, {}, {}, {"lab": team})
        use = {"day": day_of(NOON), "month": month_of(NOON), "tokens_today": 2 * USED.total}
        write_elsewhere(tmp_path, {"lab": use, "gone": use})
        assert (await ask(alice))[0] == 200
        assert "tokens_per_day of the team lab: 1,569 of 1,569 used" in (await refusal(alice))[2]
        assert (await ask(bob))[0] == 200
        with pytest.raises(GatewayConfigError, match=r"lab\.tokens_today"):
            write_elsewhere(tmp_path, {"lab": {**use, "tokens_today": -1}})
        # what cannot be read changes nothing
        elsewhere_path(tmp_path).write_text("{")
        assert "the team lab" in (await refusal(alice))[2]
        now[0] += 86400
        assert (await ask(alice))[0] == 200


async def test_a_team_may_be_too_fast_together(tmp_path: Path) -> None:
    async with (
        scripted_upstream(whole()) as upstream,
        gateway_for(tmp_path, "alice", "bob", "carol", monotonic=lambda: 1000.0) as (alice, bob, carol),
    ):
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {}, {}, {"lab": {"members": ["alice", "bob"], "model_calls_per_minute": 2}})
        assert [(await ask(one))[0] for one in (alice, bob)] == [200, 200]
        status, headers, message = await refusal(alice)
        assert (status, headers["x-should-retry"]) == (429, "true")
        assert "the team lab" in message
        assert (await ask(carol))[0] == 200
