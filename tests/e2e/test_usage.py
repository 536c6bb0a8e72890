"""From the model's wire to the report: a real server, keeper, gateway and CLI, and the demo model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.site import client, get, serving
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_servers")


@pytest.mark.real_cli
@pytest.mark.timeout(120)
@pytest.mark.acceptance
async def test_usage_is_shown_by_turn_and_a_budget_stops_one_user_only(
    short_dir: Path, real_cli: Path
) -> None:
    quotas = {"alice": {"tokens_per_day": 1}}
    async with serving(short_dir, real_cli, quotas__users=quotas) as site:
        alice, bob = await site.add_user("alice"), await site.add_user("bob")
        async with client(site, bob) as viewer:
            await viewer.subscribe()
            turns = [await viewer.send(f"say number {number}") for number in range(3)]
            for turn in turns:
                assert (await viewer.ended(turn))["state"] == "succeeded"
            usage = await get(site, bob, "/api/v1/sessions/default/usage")
            assert usage["total"]["calls"] >= 3
            assert [row["key"] for row in usage["models"]] == ["claude-pool-demo"]
            by_turn = {row["turn_id"]: row for row in usage["turns"]}
            assert all(by_turn[turn]["calls"] >= 1 and by_turn[turn]["output_tokens"] > 0 for turn in turns)
            before = usage["total"]["calls"]
            await site.kill()
            await site.start()
            await viewer.resume()
            assert (await viewer.ended(await viewer.send("say after the kill"), 60))["state"] == "succeeded"

            async def has_grown() -> bool:
                found = await get(site, bob, "/api/v1/sessions/default/usage")
                assert found["total"]["calls"] <= before + 2
                return bool(found["total"]["calls"] > before)

            await eventually(has_grown)
        async with client(site, alice) as viewer:
            await viewer.subscribe()
            assert (await viewer.ended(await viewer.send("say first")))["state"] == "succeeded"
            ending = await viewer.ended(await viewer.send("say second"))
            assert ending["state"] == "failed"
            assert "tokens_per_day" in viewer.answer()
            quota = (await get(site, alice, "/api/v1/me"))["quotas"]["tokens_per_day"]
            assert quota["warning"]
            assert quota["used"] > quota["limit"] == 1
