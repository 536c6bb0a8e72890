"""The name of a deleted user begins at zero: budgets of day and month, rates, warnings; of nobody else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.gateway.budgets import write_budgets
from server.gateway.forgotten import forget_user, forgotten_path, read_forgotten
from server.gateway.settings import GatewayConfigError
from tests.server.gateway.harness import gateway_for, scripted_upstream
from tests.server.gateway.test_metering import USED, ask, point_to, whole
from tests.server.gateway.test_usage_journal import all_entries

NOON = datetime(2026, 3, 15, 12, tzinfo=UTC).timestamp()
MONTH = 31 * 86400.0


@pytest.mark.parametrize(
    "limits",
    [
        {"tokens_per_day": 2 * USED.total},
        {"usd_per_month": 1e-3},
        {"model_calls_per_minute": 2},
        {"model_tokens_per_minute": 2 * USED.total},
    ],
)
async def test_whoever_gets_the_name_later_has_used_nothing(tmp_path: Path, limits: dict[str, float]) -> None:
    now = [NOON]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    async with scripted_upstream(whole()) as upstream:
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, limits, {})
        async with gateway_for(tmp_path, "alice", "bob", wall=clock, monotonic=clock) as (alice, bob):
            for one in (alice, bob):
                assert [(await ask(one))[0] for _ in range(3)] == [200, 200, 429]
            forget_user(tmp_path, "alice", clock())
            # the new one has the same limit, and uses it up
            assert [(await ask(alice))[0] for _ in range(3)] == [200, 200, 429]
            assert (await ask(bob))[0] == 429
        if "per_minute" not in next(iter(limits)):
            # a gateway that is started later reads all of it from the journal
            async with gateway_for(tmp_path, "alice", "bob", wall=clock, monotonic=clock) as (alice, bob):
                assert (await ask(alice))[0] == (await ask(bob))[0] == 429
                forget_user(tmp_path, "alice", clock())
                assert (await ask(alice))[0] == 200
        assert len([entry for entry in all_entries(tmp_path) if entry.user == "bob"]) == 2


async def test_what_another_gateway_wrote_before_is_not_counted_either(tmp_path: Path) -> None:
    """While one drains and the next one serves, each reads the other's journal."""
    now = [NOON]
    async with scripted_upstream(whole()) as upstream:
        point_to(tmp_path, upstream)
        write_budgets(tmp_path, {"tokens_per_day": 2 * USED.total}, {})
        async with (
            gateway_for(tmp_path, "alice", wall=lambda: now[0], monotonic=lambda: now[0]) as (before,),
            gateway_for(tmp_path, "alice", wall=lambda: now[0], monotonic=lambda: now[0]) as (after,),
        ):
            assert (await ask(before))[0] == 200
            now[0] += 5
            forget_user(tmp_path, "alice", now[0])
            now[0] += 5
            assert [(await ask(after))[0] for _ in range(3)] == [200, 200, 429]


async def test_a_file_that_is_none_stops_nobody(tmp_path: Path) -> None:
    async with scripted_upstream(whole()) as upstream, gateway_for(tmp_path, "alice") as (alice,):
        point_to(tmp_path, upstream)
        assert (await ask(alice))[0] == 200
        forgotten_path(tmp_path).write_text("[]")
        forgotten_path(tmp_path).chmod(0o600)
        assert (await ask(alice))[0] == 200
    assert "forgotten.json has another shape" in (tmp_path / "gateway" / "gateway.log").read_text()
    with pytest.raises(GatewayConfigError, match="another shape"):
        forget_user(tmp_path, "alice", NOON)


def test_names_of_an_earlier_month_leave_the_file(tmp_path: Path) -> None:
    forget_user(tmp_path, "alice", NOON)
    forget_user(tmp_path, "bob", NOON + 60)
    assert read_forgotten(tmp_path) == {"alice": NOON, "bob": NOON + 60}
    forget_user(tmp_path, "alice", NOON + 2 * MONTH)
    assert json.loads(forgotten_path(tmp_path).read_text()) == {"alice": NOON + 2 * MONTH}
    assert forgotten_path(tmp_path).stat().st_mode & 0o777 == 0o600
